"""Which bytes a step reads: those that were observed last, or a record that they were others."""

from collections.abc import Mapping, Sequence

import dagster as dg

from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.versions import observation_event, recorded
from merge_assets.reference import ModelReference


class InputVersions:
    """The recorded versions of a step's models when it starts; Dagster stores the same with its result."""

    def __init__(self, instance: dg.DagsterInstance, models: Sequence[ModelNode]) -> None:
        self.models = models
        self.at_start = {model.key: recorded(instance, model.key) for model in models}

    @property
    def commits(self) -> dict[ModelReference, str]:
        """The Hub commits that were observed last, so that the bytes used are those of the recorded version."""
        commits = {}
        for model in self.models:
            known = self.at_start[model.key]
            if model.kind == "hub" and known is not None and known.revision is not None:
                commits[model.reference] = known.revision
        return commits

    def report_moved(self, context: dg.AssetExecutionContext, used: Mapping[str, str]) -> None:
        """Record base checkpoints whose bytes were not the ones observed last.

        The recorded input version of the result is that of the start of the step. With the new one recorded, the
        result counts as stale and is made again, which finds its artifact in the store. An observation made since the
        start is newer than what the step read and stands.

        Args:
            context: of the step.
            used: fingerprint of what was read, by reference or title.
        """
        for model in self.models:
            fingerprint = used.get(str(model.reference)) or used.get(model.title)
            known = self.at_start[model.key]
            if model.kind == "recipe" or not fingerprint or (known and known.data_version == fingerprint):
                continue
            if recorded(context.instance, model.key) != known:
                continue
            context.log.warning(f"{model.title} changed since it was observed; its new fingerprint is recorded")
            context.log_event(observation_event(model.key, fingerprint, {"fingerprint": fingerprint}))
