"""Settings of all tests."""

from __future__ import annotations

import hypothesis

from tests.browser import chromium  # noqa: F401  (fixture)
from tests.s3.rgw import bucket, rgw  # noqa: F401  (fixtures: an S3 server for the session, a fresh bucket)
from tests.tiers import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401  (hooks)

# How long an example takes says nothing about a law, and a busy machine is no failure.
hypothesis.settings.register_profile("merge_assets", deadline=None)
hypothesis.settings.load_profile("merge_assets")
