"""Settings of all tests."""

from __future__ import annotations

import hypothesis
import hypothesis.database

from tests.browser import chromium  # noqa: F401  (fixture)
from tests.postgres import postgres  # noqa: F401  (fixture: URL of an empty database)
from tests.s3.rgw import bucket, rgw  # noqa: F401  (fixtures: an S3 server for the session, a fresh bucket)
from tests.tiers import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401  (hooks)

# How long an example takes says nothing about a law, and a busy machine is no failure. Every run tries the same examples:
# what is found later is kept as an @example, and looking for it is `make fuzz`'s (`--hypothesis-profile search`).
hypothesis.settings.register_profile("merge_assets", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile(
    "search",
    deadline=None,
    derandomize=False,
    database=hypothesis.database.DirectoryBasedExampleDatabase("var/fuzz/examples"),
    print_blob=True,
)
hypothesis.settings.load_profile("merge_assets")
