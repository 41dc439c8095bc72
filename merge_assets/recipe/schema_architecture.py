"""The schema of the class that a variant is loaded as."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from merge_assets.recipe.fields import RecipeMapping


class ArchitectureEntry(RecipeMapping):
    """Another class for the same tensors."""

    load_as: str = Field(min_length=1, description="class of transformers, such as `LlamaForCausalLM`")
    without: tuple[str, ...] = Field(
        default=(),
        description="keys of the config that are left out even if the variant computes otherwise without them",
    )


def _read(raw: Any) -> Any:
    return {"load_as": raw} if isinstance(raw, str) else raw


Architecture = Annotated[ArchitectureEntry, BeforeValidator(_read, json_schema_input_type=str | ArchitectureEntry)]
