"""What a merge method declares: names, parameters, arity and base, so that a plan can be made from headers; and its kernel."""

from __future__ import annotations

from dataclasses import dataclass

from merge_assets.methods.expression import Kernel


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: key under ``parameters:``.
        meaning: what it is, in some words that go on from "`name`: ".
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
    meaning: str = ""
    per_model: bool = False
    default: float | bool | None = None
    required: bool = False
    boolean: bool = False
    at_least: float | None = None
    at_most: float | None = None
    words: tuple[str, ...] = ()


WEIGHT = Parameter("weight", "how much the model counts", per_model=True, required=True)
"""A parameter of most methods."""


@dataclass(frozen=True)
class Method:
    """A merge method.

    Attributes:
        name: value of ``merge_method``.
        summary: one line for documentation and the UI.
        parameters: declared parameters; any other name in a recipe is an error or a warning.
        kernel: its arithmetic; see :mod:`merge_assets.methods.expression`.
        version: raised whenever the kernel gives other bytes for the same inputs; part of the key of every tensor that it
            makes. That of a method from outside this package says, too, which distribution it is of and which source files
            make it: :mod:`merge_assets.methods.plugin`.
        paper: arXiv id or URL of the source of the formula, empty if there is none.
        needs_base: whether one input is the base; without it a ``base_model`` only donates config and tokenizer.
        takes_base: whether a base is one more input where the recipe has one, and left out where it has none.
        least: smallest number of inputs, the base not counted.
        most: largest number of inputs, the base not counted; ``None`` is no limit.
        passes: streaming passes over the inputs before the tiles are computed; 0 is elementwise.
        rows: whether tiles must hold whole rows (of the last dimension).
        in_torch: whether the kernel returns a tile function whatever the parameters are, so that torch is needed.
        random: whether the kernel draws random masks; the recipe's seed is then among the parameters of the output.
        exact: whether a tile function, and statistics over blocks, use of tensors nothing but + − × ÷ √, comparisons and
            copies, so that a GPU gives the bytes of the CPU. What does not say so is computed on the CPU.
        divides: name of the truth value that divides the weights by their sum, which must not be zero then.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    kernel: Kernel
    version: str = "1"
    paper: str = ""
    needs_base: bool = False
    takes_base: bool = False
    least: int = 1
    most: int | None = None
    passes: int = 0
    rows: bool = False
    in_torch: bool = False
    random: bool = False
    exact: bool = False
    divides: str = ""

    @property
    def has_base(self) -> bool:
        """Whether a recipe's base model is one of the inputs."""
        return self.needs_base or self.takes_base

    def parameter(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)
