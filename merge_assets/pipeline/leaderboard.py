"""The leaderboard: one table of everything evaluated."""

from collections.abc import Sequence

import dagster as dg

from merge_assets.pipeline.keys import LEADERBOARD
from merge_assets.pipeline.outcome import CONFIRMED
from merge_assets.pipeline.ranking import leaderboard_metadata
from merge_assets.pipeline.steps import is_forced, single_asset
from merge_assets.pipeline.work import run_work
from merge_assets.plan.model import digest_of
from merge_assets.workspace import Workspace

LEADERBOARD_VERSION = "1"
MARKDOWN_FILE = "leaderboard.md"


def leaderboard_spec(scores: Sequence[dg.AssetKey]) -> dg.AssetSpec:
    """The leaderboard as Dagster shows it."""
    return dg.AssetSpec(
        LEADERBOARD,
        deps=list(scores),
        # A removed recipe is no change of an input; that the inputs are others is a change of what is collected.
        code_version=f"{LEADERBOARD_VERSION}-{digest_of(sorted(key.to_user_string() for key in scores))[:12]}",
        group_name="leaderboard",
        kinds={"table"},
        description="All models on all suites, with the difference to each parent.\n\n"
        "The artifact holds the table as Parquet, Markdown and one self-contained HTML page.",
    )


def build_leaderboard(workspace: Workspace, scores: Sequence[dg.AssetKey]) -> list[dg.AssetsDefinition]:
    """The leaderboard asset; none if nothing is evaluated."""
    if not scores:
        return []

    @single_asset(leaderboard_spec(scores), "leaderboard")
    def leaderboard(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from merge_assets import api

        ranked = run_work(context, LEADERBOARD, lambda work: api.rank(workspace, work=work))
        markdown = ranked.artifact.read_bytes(MARKDOWN_FILE).decode()
        metadata = leaderboard_metadata(ranked, markdown)
        if ranked.reused and is_forced(context):
            metadata["outcome"] = CONFIRMED  # it is found by the text of the page, which was written anew
        return dg.MaterializeResult(
            asset_key=LEADERBOARD, data_version=dg.DataVersion(ranked.artifact.version), metadata=metadata
        )

    return [leaderboard]
