"""The Dagster layer: recipes as assets, and what rebuilds them. The work itself is in :mod:`merge_assets.api`."""
