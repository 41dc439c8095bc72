"""The merge methods as a plan sees them: names, parameters, arity and base, without their arithmetic.

The arithmetic of a method is a kernel in :mod:`merge_assets.engine`, named here by ``module:function`` and imported
only when tensors are computed, so that a recipe can be checked against its methods without importing torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from merge_assets.errors import PlanError

ENTRY_POINT_GROUP = "merge_assets.methods"
"""Entry point group through which other packages add a :class:`Method`."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: key under ``parameters:``.
        per_model: True if every input has its own value (looked up by the input tensor's name); False if the method
            has one value per output tensor.
        default: value where the recipe gives none; ``None`` with ``required`` False means "leave out".
        required: whether a recipe must give a value.
        boolean: whether the value is a truth value instead of a number.
        at_least: smallest legal number.
        at_most: largest legal number.
        words: words that are legal in place of a number or truth value.
    """

    name: str
    per_model: bool = False
    default: float | bool | None = None
    required: bool = False
    boolean: bool = False
    at_least: float | None = None
    at_most: float | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """What a plan must know of a merge method.

    Attributes:
        name: value of ``merge_method``.
        summary: one line for documentation and the UI.
        paper: arXiv id or URL of the source of the formula, empty if there is none.
        parameters: declared parameters; any other name in a recipe is an error or a warning.
        kernel: ``module:function`` of the kernel.
        needs_base: whether one input is the base; without it a ``base_model`` only donates config and tokenizer.
        least: smallest number of inputs, the base not counted.
        most: largest number of inputs, the base not counted; ``None`` is no limit.
        takes_base: whether a base is one more input where the recipe has one, and left out where it has none.
        passes: streaming passes over the inputs before the tiles are computed; 0 is elementwise.
        rows: whether tiles must hold whole rows (of the last dimension).
        in_torch: whether the kernel returns a tile function, which is written in torch.
        random: whether the kernel draws random masks; the recipe's seed is then among the parameters of the output.
        divides: name of the truth value that divides the weights by their sum, which must not be zero then.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    kernel: str
    paper: str = ""
    needs_base: bool = False
    takes_base: bool = False
    least: int = 1
    most: int | None = None
    passes: int = 0
    rows: bool = False
    in_torch: bool = False
    random: bool = False
    divides: str = ""

    @property
    def has_base(self) -> bool:
        """Whether a recipe's base model is one of the inputs."""
        return self.needs_base or self.takes_base

    def parameter(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)


_WEIGHT = Parameter("weight", per_model=True, required=True)
_LAMBDA = Parameter("lambda", default=1.0)
_INT8_MASK = Parameter("int8_mask", default=False, boolean=True)
_KERNELS = "merge_assets.engine.methods"


def _density(name: str = "density", default: float = 1.0) -> Parameter:
    return Parameter(name, per_model=True, default=default, at_least=0.0, at_most=1.0)


def _task_vectors(
    name: str,
    summary: str,
    paper: str,
    *,
    normalize: bool = False,
    rescale: bool | None = None,
    extra: tuple[Parameter, ...] = (),
    passes: int = 0,
    random: bool = False,
    rows: bool = False,
) -> Method:
    """A member of the task-vector family; ``rescale`` None means that nothing is left out that could be made up for."""
    parameters = (_WEIGHT, _density(), *extra, Parameter("normalize", default=normalize, boolean=True), _LAMBDA)
    if rescale is not None:
        parameters += (Parameter("rescale", default=rescale, boolean=True, words=("paper",)),)
    return Method(
        name=name,
        summary=summary,
        paper=paper,
        parameters=(*parameters, _INT8_MASK),
        kernel=f"{_KERNELS}.task_vectors:{name}",
        needs_base=True,
        passes=passes,
        random=random,
        rows=rows,
    )


_BUILT_IN = (
    Method(
        name="passthrough",
        summary="The input as it is, or scaled.",
        parameters=(Parameter("scale", per_model=True),),
        kernel=f"{_KERNELS}.passthrough:passthrough",
        most=1,
    ),
    Method(
        name="linear",
        summary="Weighted mean of the inputs.",
        paper="2203.05482",
        parameters=(_WEIGHT, Parameter("normalize", default=True, boolean=True)),
        kernel=f"{_KERNELS}.linear:linear",
        divides="normalize",
    ),
    Method(
        name="slerp",
        summary="Spherical interpolation from the base to the other input.",
        parameters=(Parameter("t", required=True),),
        kernel=f"{_KERNELS}.slerp:slerp",
        needs_base=True,
        most=1,
        passes=1,
    ),
    Method(
        name="nuslerp",
        summary="Spherical interpolation of two inputs, or of their differences to a base, by their weights.",
        parameters=(
            _WEIGHT,
            Parameter("nuslerp_flatten", default=True, boolean=True),
            Parameter("nuslerp_row_wise", default=False, boolean=True),
        ),
        kernel=f"{_KERNELS}.nuslerp:nuslerp",
        takes_base=True,
        least=2,
        most=2,
        passes=1,
        rows=True,
    ),
    Method(
        name="multislerp",
        summary="Weighted mean of directions in the tangent space at their mean, for any number of inputs.",
        parameters=(
            _WEIGHT,
            Parameter("normalize_weights", default=True, boolean=True),
            Parameter("eps", default=1e-8, at_least=0.0),
        ),
        kernel=f"{_KERNELS}.multislerp:multislerp",
        divides="normalize_weights",
        takes_base=True,
        passes=1,
    ),
    Method(
        name="karcher",
        summary="Riemannian (Karcher) mean of the directions of the inputs.",
        parameters=(Parameter("max_iter", default=10.0, at_least=0.0), Parameter("tol", default=1e-5, at_least=0.0)),
        kernel=f"{_KERNELS}.karcher:karcher",
        passes=1,
    ),
    Method(
        name="model_stock",
        summary="Between the base and the mean of its fine-tunes, at the ratio that their angles give.",
        paper="2403.19522",
        parameters=(Parameter("filter_wise", default=False, boolean=True),),
        kernel=f"{_KERNELS}.model_stock:model_stock",
        needs_base=True,
        least=2,
        passes=1,
        rows=True,
    ),
    Method(
        name="nearswap",
        summary="The other input where it is near the base, the base where it is far.",
        parameters=(Parameter("t", required=True, at_least=0.0),),
        kernel=f"{_KERNELS}.nearswap:nearswap",
        in_torch=True,
        needs_base=True,
        most=1,
    ),
    Method(
        name="arcee_fusion",
        summary="The base, with the elements of the other input whose change is most important.",
        parameters=(),
        kernel=f"{_KERNELS}.arcee_fusion:arcee_fusion",
        in_torch=True,
        needs_base=True,
        most=1,
        passes=3,
        rows=True,
    ),
    _task_vectors("task_arithmetic", "The base plus a weighted sum of the differences to it.", "2212.04089"),
    _task_vectors(
        "ties",
        "Task vectors trimmed to their largest elements, merged where their signs agree.",
        "2306.01708",
        normalize=True,
        rescale=False,
        passes=3,
    ),
    _task_vectors(
        "dare_linear",
        "Task vectors thinned at random and made up for, summed.",
        "2311.03099",
        rescale=True,
        passes=1,
        random=True,
    ),
    _task_vectors(
        "dare_ties",
        "Task vectors thinned at random and made up for, merged where their signs agree.",
        "2311.03099",
        rescale=True,
        passes=1,
        random=True,
    ),
    _task_vectors(
        "breadcrumbs",
        "Task vectors without their largest and smallest elements, summed.",
        "2312.06795",
        rescale=False,
        extra=(_density("gamma", 0.01),),
        passes=3,
    ),
    _task_vectors(
        "breadcrumbs_ties",
        "Task vectors without their largest and smallest elements, merged where their signs agree.",
        "2312.06795",
        rescale=False,
        extra=(_density("gamma", 0.01),),
        passes=3,
    ),
    _task_vectors(
        "della",
        "Task vectors thinned at random, large elements less often, merged where their signs agree.",
        "2406.11617",
        normalize=True,
        rescale=True,
        extra=(_density("epsilon", 0.15),),
        passes=1,
        random=True,
        rows=True,
    ),
    _task_vectors(
        "della_linear",
        "Task vectors thinned at random, large elements less often, summed.",
        "2406.11617",
        rescale=True,
        extra=(_density("epsilon", 0.15),),
        passes=1,
        random=True,
        rows=True,
    ),
    Method(
        name="sce",
        summary="Task vectors weighted by their mean square, merged where their signs agree.",
        paper="2408.07990",
        parameters=(Parameter("select_topk", default=1.0, at_least=0.0, at_most=1.0), _INT8_MASK),
        kernel=f"{_KERNELS}.sce:sce",
        needs_base=True,
        passes=4,
    ),
    Method(
        name="ram",
        summary="Changes of one model alone as they are, changes of several averaged.",
        parameters=(Parameter("epsilon", default=1e-5, at_least=0.0),),
        kernel=f"{_KERNELS}.ram:ram",
        in_torch=True,
        needs_base=True,
    ),
    Method(
        name="ramplus_tl",
        summary="ram, with the changes of one model alone enlarged by how many it shares.",
        parameters=(
            Parameter("epsilon", default=1e-5, at_least=0.0),
            Parameter("r", default=0.1),
            Parameter("alpha", default=0.2, at_least=0.0),
        ),
        kernel=f"{_KERNELS}.ram:ramplus_tl",
        in_torch=True,
        needs_base=True,
        passes=1,
    ),
)


_BY_NAME = {method.name: method for method in _BUILT_IN}


@cache
def methods() -> dict[str, Method]:
    """Every method by name: the built-in ones and those that installed packages register.

    Raises:
        PlanError: if an entry point does not load or is not a :class:`Method`.
    """
    found = dict(_BY_NAME)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            method = entry.load()
        except Exception as error:
            raise PlanError(f"the merge method plugin {entry.value!r} does not import: {error}") from error
        if not isinstance(method, Method):
            raise PlanError(f"the merge method plugin {entry.value!r} is not a merge_assets.plan.methods.Method")
        if method.name in found:
            raise PlanError(
                f"the merge method plugin {entry.value!r} is called {method.name!r}, as another one is; rename it"
            )
        found[method.name] = method
    return found


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        PlanError: if there is none; the message proposes the nearest name.
    """
    if name in _BY_NAME:  # without a search through the installed packages
        return _BY_NAME[name]
    known = methods()
    if name in known:
        return known[name]
    raise PlanError(f"unknown method {name!r}{did_you_mean(name, known)}; known: {', '.join(sorted(known))}")


def did_you_mean(name: str, known: object) -> str:
    """``, did you mean 'x'?`` for the nearest of ``known``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f", did you mean {near[0]!r}?" if near else ""
