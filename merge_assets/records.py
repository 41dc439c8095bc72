"""What is written down of what was made: typed, in one format.

A record that is a file of its own says its format (:class:`RecordFile`). A newer minor version only adds fields: what this one
does not know is kept, and written again with the rest. Whatever changes the meaning of a field is another format.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from merge_assets.reference import ModelKind
from merge_assets.shown import without_credentials

FORMAT: Literal[2] = 2

NOTHING_CHANGED = "nothing changed"
"""Said of what was measured again and came out the same, on the same versions of everything."""

_M = TypeVar("_M", bound=BaseModel)


class Record(BaseModel):
    """Something written down. Numbers are finite; fields that are not known here are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, ser_json_inf_nan="constants")


class RecordFile(Record):
    """A record that is a file of its own."""

    format: Literal[2] = FORMAT

    @classmethod
    def of(cls, fields: object) -> Self:
        """What was read back.

        Raises:
            ValueError: if it is no such record, or one of another format; the text names the field.
        """
        if not isinstance(fields, Mapping):
            raise ValueError("not a record")
        if fields.get("format") != FORMAT:
            raise ValueError(f"format {fields.get('format', 1)}, not {FORMAT}")
        return parsed(cls, fields)


def parsed(kind: type[_M], fields: object) -> _M:
    """Fields as a record.

    Raises:
        ValueError: if they are none; the text names the first field that is wrong.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else str(first["msg"])) from None


class Input(Record):
    """Something that a version was made from.

    Attributes:
        kind: where it is from: a recipe's variant, a local folder, the Hub, or a URL.
        name: as the recipe or the command calls it, without credentials.
        revision: commit on the Hub.
        fingerprint: of its bytes; of a mirror, the commit.
        license: as its card on the Hub says.
        gated: whether the Hub asks people to agree to terms first.
        base_models: what its card says that it was made from.
    """

    kind: ModelKind
    name: Annotated[str, AfterValidator(without_credentials)]
    fingerprint: str
    revision: str | None = None
    license: str | None = None
    gated: bool | None = None
    base_models: tuple[str, ...] = ()


class Provenance(Record):
    """By what a version was made, and when.

    Attributes:
        merge_assets: version of this package.
        commit: of this package's source where it is a git checkout; with a ``+`` where files differ from it.
        command: the program and its arguments.
        host: kind of machine, not its name.
        started: when the work began, UTC.
        ended: when it was finished, UTC.
    """

    merge_assets: str
    commit: str | None = None
    command: str
    host: str
    started: datetime
    ended: datetime


class Check(Record):
    """What one check of a variant found.

    Attributes:
        name: of the check.
        passed: whether the variant is as it should be.
        description: one sentence for people.
        metadata: figures behind it, plain JSON.
    """

    name: str
    passed: bool
    description: str
    metadata: Mapping[str, Any] = Field(default_factory=dict)


class Geometry(Record):
    """How the inputs of a tensor lie to each other, as a method found that sweeps them anyway.

    Attributes:
        of: whether they are the inputs themselves, or their differences to the base.
        norms: Euclidean norm of each, in recipe order; without the base where differences to it are meant.
        cosines: of the angle between each pair, the first with all later ones, then the second; 0 where a norm is 0.
    """

    of: Literal["inputs", "task vectors"]
    norms: tuple[float, ...]
    cosines: tuple[float, ...]


class BuildReport(Record):
    """What one execution of a plan did.

    Attributes:
        seconds: wall time.
        bytes_read: bytes of input tensors read or copied, each as often as it was read.
        bytes_written: bytes written into the output shards.
        tensors_computed: tensors that went through a kernel.
        tensors_copied: tensors whose bytes were copied unchanged.
        peak_memory: largest resident size of the process so far, bytes.
        threads: workers used.
        device: where the arithmetic ran.
        nonfinite: NaN or infinite elements by output tensor, where there are any.
        geometry: of output tensors that were computed now by a method that sweeps inner products.
    """

    seconds: float
    bytes_read: int
    bytes_written: int
    tensors_computed: int
    tensors_copied: int
    peak_memory: int
    threads: int
    device: str
    nonfinite: Mapping[str, int] = Field(default_factory=dict)
    geometry: Mapping[str, Geometry] = Field(default_factory=dict)


class StoredBuildReport(BuildReport):
    """The same of a build into the store, with what was not computed, and what was moved by whom.

    Attributes:
        tensors_reused: taken from finished bytes of the store, or of models at URLs that its server reaches.
        tensors_by_server: of these, copied by the object store.
        tensors_resumed: finished by an earlier attempt of the same build.
        bytes_reused: taken from finished bytes of the store, or of models at URLs that its server reaches.
        bytes_linked: of these, by one more name of a file that is there.
        bytes_moved: of these, copied by the object store or the file system, without coming by here.
        bytes_resumed: finished by an earlier attempt of the same build.
        bytes_fetched: read from the object store.
        bytes_sent: written to the object store.
    """

    tensors_reused: int
    tensors_by_server: int
    tensors_resumed: int
    bytes_reused: int
    bytes_linked: int
    bytes_moved: int
    bytes_resumed: int
    bytes_fetched: int
    bytes_sent: int


class Details(Record):
    """What a manifest says of a version besides its files and what it was made from.

    Attributes:
        nonfinite: NaN or infinite elements by tensor, where there are any.
        geometry: of tensors whose method sweeps inner products; also of those that were taken from another version, but not of
            those that an earlier attempt of the same build finished.
    """

    nonfinite: Mapping[str, int] = Field(default_factory=dict)
    geometry: Mapping[str, Geometry] = Field(default_factory=dict)


class VariantDetails(Details):
    """Details of a merged variant.

    Attributes:
        recipe: its name.
        method: merge method.
        methods: version of every method that made a tensor or an input of one, by name.
        layers: number of layers.
        parameters: elements of all tensors.
        checks: what was found right after it was built.
        report: what the build did.
        code: key of what says how it is made: its recipe, those folded into it, the version of the engine's numerics.
        code_models: the models whose Python code it carries, as the recipe names them.
    """

    recipe: str
    method: str
    methods: Mapping[str, str] = Field(default_factory=dict)
    layers: int
    parameters: int
    checks: tuple[Check, ...]
    report: StoredBuildReport
    code: str | None = None
    code_models: tuple[str, ...] = ()


class MirrorReport(Record):
    """What mirroring a checkpoint took.

    Attributes:
        shards_downloaded: the others were copied by the server.
        bytes_reused: taken from earlier versions.
        bytes_resumed: sent by an earlier attempt.
        bytes_sent: written to the object store.
        tensors_by_server: copied by the object store.
    """

    shards_downloaded: int
    bytes_reused: int
    bytes_resumed: int
    bytes_sent: int
    tensors_by_server: int


class MirrorDetails(Details):
    """Details of a checkpoint of the Hub that was mirrored.

    Attributes:
        repository: ``org/name``.
        commit: the full commit id.
        report: what it took.
    """

    repository: str
    commit: str
    report: MirrorReport


class AnalysisDetails(Details):
    """Details of an SNR analysis.

    Attributes:
        model: its title.
        fingerprint: of the model's bytes.
        modules: parts of tensor names that were asked for, sorted; ``None`` is every matrix of the layers.
        weights: matrices scored.
        infinite: of these, with an infinite SNR.
        seconds: wall time.
        bytes_read: bytes of weights read.
        spectra_reused: spectra taken from the analysis before.
        versions: of numpy, and of the library of linear algebra, which computed the others.
        device: where they were computed.
    """

    model: str
    fingerprint: str
    modules: tuple[str, ...] | None
    weights: int
    infinite: int
    seconds: float
    bytes_read: int
    spectra_reused: int
    versions: Mapping[str, str] = Field(default_factory=dict)
    device: Literal["cpu"] = "cpu"


class ImportanceDetails(Details):
    """Details of a measurement of layer importance.

    Attributes:
        model: its title.
        fingerprint: of the model's bytes.
        kind: ``activations`` or ``perplexity``.
        text: settings of the text, as a recipe writes them.
        text_digest: SHA-256 of the text.
        tokens: tokens used.
        pieces: of which each was run alone.
        seconds: wall time.
        layers_in_memory: the most at once.
        layers_resumed: that an earlier attempt had done.
        versions: of torch and transformers.
        device: where layers were computed.
    """

    model: str
    fingerprint: str
    kind: Literal["activations", "perplexity"]
    text: Mapping[str, Any]
    text_digest: str
    tokens: int
    pieces: int
    seconds: float
    layers_in_memory: int
    layers_resumed: int
    versions: Mapping[str, str]
    device: str


class ScoresDetails(Details):
    """Details of scores.

    Attributes:
        model: the model's title.
        suite: the suite's name.
        headline: mean of the headline rows, a fraction; ``None`` if the suite has none.
    """

    model: str
    suite: str
    headline: float | None


class TrialBeside(Record):
    """A trial of a search beside one of the models that it is made of, by one objective.

    Attributes:
        model: the other.
        objective: what they are compared by.
        searched: how much better the trial is on the documents that the search saw, in the objective's unit.
        confirmed: the same on those that it did not see; ``None`` where the suite keeps none from a search.
        verdict: of the last; of the first where that is ``None``.
    """

    model: str
    objective: str
    searched: float
    confirmed: float | None
    verdict: str


class FoundTrial(Record):
    """What a search found: its best trial, or one than which no other is better in everything.

    Attributes:
        name: of the variant that it becomes.
        number: of the trial.
        values: by key path.
        objectives: what it came to.
        recipe: with the values in their places, as YAML.
        beside: the models that it is made of.
    """

    name: str
    number: int
    values: Mapping[str, Any]
    objectives: Mapping[str, float]
    recipe: str
    beside: tuple[TrialBeside, ...]


class SearchDetails(Details):
    """Details of a search that has come to its end.

    Attributes:
        search: its name.
        study: what the storage of trials calls them.
        trials: finished ones.
        failed: of these.
        found: the best one, or the front.
    """

    search: str
    study: str
    trials: int
    failed: int
    found: tuple[FoundTrial, ...]


class LeaderboardDetails(Details):
    """Details of a leaderboard.

    Attributes:
        models: rows.
    """

    models: int = Field(ge=0)
