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
    """

    name: str
    per_model: bool = False
    default: float | bool | None = None
    required: bool = False
    boolean: bool = False
    at_least: float | None = None
    at_most: float | None = None


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
        passes: streaming passes over the inputs before the tiles are computed; 0 is elementwise.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    kernel: str
    paper: str = ""
    needs_base: bool = False
    least: int = 1
    most: int | None = None
    passes: int = 0

    def parameter(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)


_WEIGHT = Parameter("weight", per_model=True, required=True)
_TASK_VECTOR_PARAMETERS = (
    _WEIGHT,
    Parameter("density", per_model=True, default=1.0, at_least=0.0, at_most=1.0),
    Parameter("lambda", default=1.0),
    Parameter("int8_mask", default=False, boolean=True),
)
_KERNELS = "merge_assets.engine.methods"

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
        name="task_arithmetic",
        summary="The base plus a weighted sum of the differences to it.",
        paper="2212.04089",
        parameters=(*_TASK_VECTOR_PARAMETERS, Parameter("normalize", default=False, boolean=True)),
        kernel=f"{_KERNELS}.task_arithmetic:task_arithmetic",
        needs_base=True,
    ),
    Method(
        name="ties",
        summary="Task vectors trimmed to their largest elements, merged where their signs agree.",
        paper="2306.01708",
        parameters=(
            *_TASK_VECTOR_PARAMETERS,
            Parameter("normalize", default=True, boolean=True),
            Parameter("rescale", default=False, boolean=True),
        ),
        kernel=f"{_KERNELS}.ties:ties",
        needs_base=True,
        passes=3,
    ),
)

PARAMETERS_ELSEWHERE = frozenset(
    {
        *("alpha", "density", "epsilon", "eps", "filter_wise", "gamma", "int8_mask", "lambda", "max_iter", "normalize"),
        *(
            "normalize_weights",
            "nuslerp_flatten",
            "nuslerp_row_wise",
            "r",
            "rescale",
            "scale",
            "select_topk",
            "t",
            "tol",
        ),
        "weight",
    }
)
"""Parameter names of mergekit's methods. In a recipe whose method lacks them they have no effect, as in mergekit."""


@cache
def methods() -> dict[str, Method]:
    """Every method by name: the built-in ones and those that installed packages register.

    Raises:
        PlanError: if an entry point does not load or is not a :class:`Method`.
    """
    found = {method.name: method for method in _BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            method = entry.load()
        except Exception as error:
            raise PlanError(f"the merge method plugin {entry.value!r} does not import: {error}") from error
        if not isinstance(method, Method):
            raise PlanError(f"the merge method plugin {entry.value!r} is not a merge_assets.plan.methods.Method")
        found[method.name] = method
    return found


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        PlanError: if there is none; the message proposes the nearest name.
    """
    known = methods()
    if name in known:
        return known[name]
    raise PlanError(f"unknown method {name!r}{did_you_mean(name, known)}; known: {', '.join(sorted(known))}")


def did_you_mean(name: str, known: object) -> str:
    """``, did you mean 'x'?`` for the nearest of ``known``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f", did you mean {near[0]!r}?" if near else ""
