"""What the user writes: recipe files, their schema, parameter settings, templates, and all recipes together."""

from merge_assets.recipe.averaging import checkpoint_weights, written_out
from merge_assets.recipe.book import RecipeBook
from merge_assets.recipe.found import SearchResult, said_of
from merge_assets.recipe.load import BrokenRecipe, candidate, load_recipe, load_recipes
from merge_assets.recipe.parameters import (
    Conditional,
    Parameters,
    ParameterValue,
    Scalar,
    gradient,
    lookup,
    position,
    resolve,
)
from merge_assets.recipe.resolved import to_mergekit, with_stages
from merge_assets.recipe.schema import (
    BODIES,
    TEMPLATES,
    ModelEntry,
    Module,
    Publish,
    Recipe,
    RecipeSource,
    Slice,
    Source,
)
from merge_assets.recipe.schema_architecture import ArchitectureEntry
from merge_assets.recipe.schema_averaging import AverageCheckpoints, CheckpointListing, Exponential
from merge_assets.recipe.schema_evaluation import EvaluateEntry, GenerationEntry, ModelArgumentsEntry
from merge_assets.recipe.schema_published import AVERAGE, Published
from merge_assets.recipe.schema_search import Choices, FoundBy, Halving, Objective, Search, Span
from merge_assets.recipe.schema_sweep import Interval, RandomPoints, Range, Sweep, Swept
from merge_assets.recipe.schema_templates import DepthUpscale, ImportanceKind, Lowest, Protect, PruneLayers, TextSample
from merge_assets.recipe.schema_tokenizer import TokenizerSettings, TokenSettings, TokenSource
from merge_assets.recipe.templates import (
    LayerFigure,
    expand_depth_upscale,
    expand_prune_layers,
    select_layers,
)
from merge_assets.recipe.unbuilt import check_built

__all__ = [
    "AVERAGE",
    "BODIES",
    "TEMPLATES",
    "ArchitectureEntry",
    "AverageCheckpoints",
    "BrokenRecipe",
    "CheckpointListing",
    "Choices",
    "Conditional",
    "DepthUpscale",
    "EvaluateEntry",
    "Exponential",
    "FoundBy",
    "GenerationEntry",
    "Halving",
    "ImportanceKind",
    "Interval",
    "LayerFigure",
    "Lowest",
    "ModelArgumentsEntry",
    "ModelEntry",
    "Module",
    "Objective",
    "ParameterValue",
    "Parameters",
    "Protect",
    "PruneLayers",
    "Publish",
    "Published",
    "RandomPoints",
    "Range",
    "Recipe",
    "RecipeBook",
    "RecipeSource",
    "Scalar",
    "Search",
    "SearchResult",
    "Slice",
    "Source",
    "Span",
    "Sweep",
    "Swept",
    "TextSample",
    "TokenSettings",
    "TokenSource",
    "TokenizerSettings",
    "candidate",
    "check_built",
    "checkpoint_weights",
    "expand_depth_upscale",
    "expand_prune_layers",
    "gradient",
    "load_recipe",
    "load_recipes",
    "lookup",
    "position",
    "resolve",
    "said_of",
    "select_layers",
    "to_mergekit",
    "with_stages",
    "written_out",
]
