"""The definitions of the project around the working directory, opened once per process.

The process that plans a run reads the folders. Those that work on it open what it was planned with, which Dagster hands to them
with the plan of the run (:mod:`merge_assets.workspace.snapshot`).
"""

import functools
import gc
import json
import warnings
from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType

from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.executor import start_ahead
from merge_assets.pipeline.gone import remember
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.keys import BUILD_JOB
from merge_assets.pipeline.lifeline import end_with_parent
from merge_assets.pipeline.nodes import Graph
from merge_assets.workspace import Workspace
from merge_assets.workspace.snapshot import Snapshot

# Observable assets and code references are marked beta; pages of warnings would hide real ones.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

PLANNED, GONE = "merge_assets/planned", "merge_assets/gone"
"""Names of the snapshot, and of the keys of what went lately, in what Dagster keeps with the plan of a run."""


@functools.cache
def workspace() -> Workspace:
    """The workspace of this process: of the run that it works on, or of the folders."""
    packed = _handed_over().get(PLANNED)
    return Workspace.open(planned=Snapshot.unpack(packed) if packed is not None else None)


@functools.cache
def graph() -> Graph:
    """The graph of this process's workspace."""
    return build_graph(workspace())


@functools.cache
def _packed() -> str:
    return workspace().snapshot().pack()


@functools.cache
def _gone() -> tuple[dg.AssetKey, ...]:
    listed = _handed_over().get(GONE)
    if listed is not None:
        return tuple(dg.AssetKey.from_user_string(name) for name in json.loads(listed))
    return tuple(remember(workspace().cache, graph().built_keys()))


@functools.cache
def _made() -> dg.Definitions:
    end_with_parent()
    if _handed_over():
        start_ahead(workspace().settings)
    # Everything made here stays; looking for garbage among it again and again takes a tenth of the time.
    gc.disable()
    try:
        return build_definitions(workspace(), graph(), _gone())
    finally:
        gc.enable()


def definitions() -> dg.Definitions:
    """The definitions of this process; what they were made from goes into the plans of runs."""
    made = _made()
    context = DefinitionsLoadContext.get()
    context.add_to_pending_reconstruction_metadata(PLANNED, _packed())
    context.add_to_pending_reconstruction_metadata(GONE, json.dumps([key.to_user_string() for key in _gone()]))
    return made


def build_job() -> dg.JobDefinition:
    """The job of `merge-assets build`; a function of a module, so that step processes can make it again."""
    return definitions().resolve_job_def(BUILD_JOB)


def forget() -> None:
    """Make the next call read settings, recipes and suites again."""
    for cached in (workspace, graph, _packed, _gone, _made):
        cached.cache_clear()
    # The last run of this process left its own here.
    DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))


def _handed_over() -> Mapping[str, str]:
    """What came with the plan of the run that this process works on; empty if it works on none."""
    context = DefinitionsLoadContext.get()
    return context.reconstruction_metadata if context.load_type == DefinitionsLoadType.RECONSTRUCTION else {}
