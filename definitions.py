"""What Dagster loads: the assets, checks, sensors and schedules made from the project's recipes."""

from merge_assets.pipeline.location import definitions

defs = definitions()
