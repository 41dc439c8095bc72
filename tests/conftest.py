"""Settings of all tests."""

from __future__ import annotations

import hypothesis

# How long an example takes says nothing about a law, and a busy machine is no failure.
hypothesis.settings.register_profile("merge_assets", deadline=None)
hypothesis.settings.load_profile("merge_assets")
