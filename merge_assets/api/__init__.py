"""The verbs: what the command line and the Dagster layer both call, and what a script may call, too.

    from merge_assets.api import Workspace, load_recipe, plan, merge

    workspace = Workspace.open()
    recipe = load_recipe("recipes/my-merge.yaml")
    print(plan(workspace, recipe).layer_count)
    merge(workspace, recipe, "out/my-merge")

``merge``, ``snr``, ``importance`` and ``evaluate`` work on folders; ``build``, ``analyse``, ``measure_importance``, ``score``
and ``rank`` keep their results in the artifact store and reuse what is there.

What takes long takes a :class:`Work`, by which it tells how far it is, and learns that it should stop:

    def report(done: int, total: int, label: str) -> None:
        print(f"{done} of {total} bytes, {label}")

    merge(workspace, recipe, "out/my-merge", work=Work(report=report, should_stop=event.is_set))
"""

from merge_assets.api.analyse import Analysed, analyse, snr
from merge_assets.api.build import Built, build
from merge_assets.api.compare import Comparison, compare
from merge_assets.api.conclude import Concluded, conclude
from merge_assets.api.import_recipe import Found, import_recipe, write_recipe
from merge_assets.api.importance import Measured, importance, importance_cost, measure_importance
from merge_assets.api.likeness import Likeness, likeness
from merge_assets.api.merge import merge
from merge_assets.api.observe import Observation, observe
from merge_assets.api.plan import plan
from merge_assets.api.preflight import check, look_over, refused, suites_of
from merge_assets.api.rank import Ranked, board_of, rank
from merge_assets.api.score import Scored, evaluate, score
from merge_assets.api.search import OpenSearch, open_search, search
from merge_assets.api.search_page import live_page, search_pictures, write_search_page
from merge_assets.api.search_plan import SearchPlan, plan_search
from merge_assets.api.sweep import SweepPlan, plan_sweep
from merge_assets.identity import ModelIdentity
from merge_assets.recipe import load_recipe
from merge_assets.work import Work
from merge_assets.workspace import Workspace

__all__ = [
    "Analysed",
    "Built",
    "Comparison",
    "Concluded",
    "Found",
    "Likeness",
    "Measured",
    "ModelIdentity",
    "Observation",
    "OpenSearch",
    "Ranked",
    "Scored",
    "SearchPlan",
    "SweepPlan",
    "Work",
    "Workspace",
    "analyse",
    "board_of",
    "build",
    "check",
    "compare",
    "conclude",
    "evaluate",
    "import_recipe",
    "importance",
    "importance_cost",
    "likeness",
    "live_page",
    "load_recipe",
    "look_over",
    "measure_importance",
    "merge",
    "observe",
    "open_search",
    "plan",
    "plan_search",
    "plan_sweep",
    "rank",
    "refused",
    "score",
    "search",
    "search_pictures",
    "snr",
    "suites_of",
    "write_recipe",
    "write_search_page",
]
