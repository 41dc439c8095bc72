"""The definitions of the project around the working directory, opened once per process."""

import functools
import gc
import warnings

import dagster as dg

from merge_assets.pipeline.assemble import BUILD_JOB, build_definitions
from merge_assets.pipeline.graph import Graph, build_graph
from merge_assets.workspace import Workspace

# Observable assets and code references are marked beta; pages of warnings would hide real ones.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


@functools.cache
def workspace() -> Workspace:
    """The workspace of this process."""
    return Workspace.open()


@functools.cache
def graph() -> Graph:
    """The graph of this process's workspace."""
    return build_graph(workspace())


@functools.cache
def definitions() -> dg.Definitions:
    """The definitions of this process."""
    # Everything made here stays; looking for garbage among it again and again takes a tenth of the time.
    gc.disable()
    try:
        return build_definitions(workspace(), graph())
    finally:
        gc.enable()


def build_job() -> dg.JobDefinition:
    """The job of `merge-assets build`; a function of a module, so that step processes can make it again."""
    return definitions().resolve_job_def(BUILD_JOB)


def forget() -> None:
    """Make the next call read settings, recipes and suites again."""
    for cached in (workspace, graph, definitions):
        cached.cache_clear()
