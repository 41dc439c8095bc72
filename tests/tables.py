"""Make the tables of what the installed transformers and lm-eval know: ``python -m tests.tables``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.conversion_mapping import _build_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, Concatenate, WeightConverter, WeightRenaming
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from merge_assets.architecture import depth as depths
from merge_assets.architecture import precision, relabel, spelling
from merge_assets.architecture.towers import tower_of
from merge_assets.evaluation.task_index import names_made
from merge_assets.model_worker import Desk, Limits
from merge_assets.variant.loading import by_layer

MODELING = Path(transformers.__file__).parent / "models"
KEPT = {"_keep_in_fp32_modules_strict": "strict", "_keep_in_fp32_modules": "half"}
KIND = re.compile(r'^    model_type(?:: str)? = "(\w+)"', re.MULTILINE)
PREFIX = re.compile(r'^    base_model_prefix = "(\w+)"', re.MULTILINE)
BESIDE = {
    "encoder",
    "decoder",
    "encoder_decoder",
    "question_encoder",
    "ctx_encoder",
    "talker",
    "text_model",
    "semantic",
}
"""Modules that lie beside others of the same kind: without their names, roles would be mixed up."""

MORE = {"module", "thinker", "llm", "language_model"}
"""Wrappers that are the prefix of no class."""


def spellings() -> dict[str, Any]:
    """What ``spellings.json`` holds."""
    prefixes = {found for file in MODELING.glob("*/modeling_*.py") for found in PREFIX.findall(file.read_text())}
    renames: dict[str, list[tuple[str, str]]] = {}
    for kind, transforms in _build_checkpoint_conversion_mapping().items():
        for one in transforms:
            if type(one) is WeightRenaming and len(one.source_patterns) == len(one.target_patterns) == 1:
                renames.setdefault(kind, []).append((one.source_patterns[0], one.target_patterns[0]))
    fusions: dict[str, list[tuple[str, list[str]]]] = {}
    for kind, transforms in _build_checkpoint_conversion_mapping().items():
        for one in transforms:
            if (found := _fusion(one)) is not None:
                fusions.setdefault(kind, []).append(found)
    wrappers = sorted(word for word in prefixes | MORE if tower_of(word) is None and word not in BESIDE)
    return {"wrappers": wrappers, "renames": dict(sorted(renames.items())), "fusions": dict(sorted(fusions.items()))}


def _fusion(transform: object) -> tuple[str, list[str]] | None:
    """The pattern of a fused projection and what replaces it in the names of its parts, which are equal and in order."""
    if not isinstance(transform, WeightConverter) or len(transform.operations) != 1:
        return None
    (operation,) = transform.operations
    fused, parts = transform.source_patterns, transform.target_patterns
    if type(operation) is Concatenate and operation.dim == 0 and not any("*" in part for part in fused):
        fused, parts = parts, fused
    elif type(operation) is not Chunk or operation.dim != 0:
        return None
    if len(fused) != 1 or len(parts) < 2:
        return None
    return fused[0], [re.sub(r"\\(?!\d)", "", part) for part in parts]


def float32() -> dict[str, Any]:
    """What ``precision.json`` holds: by model type, patterns of names that stay in float32."""
    found: dict[str, dict[str, list[str]]] = {}
    for folder in sorted(path for path in MODELING.iterdir() if path.is_dir()):
        kept: dict[str, set[str]] = {}
        for file in folder.glob("modeling_*.py"):
            for name, words in _kept(ast.parse(file.read_text())):
                kept.setdefault(KEPT[name], set()).update(words)
        kinds = {kind for file in folder.glob("configuration_*.py") for kind in KIND.findall(file.read_text())}
        for kind in sorted(kinds) if any(kept.values()) else ():
            found[kind] = {which: sorted(words) for which, words in sorted(kept.items()) if words}
    return found


def _kept(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """The lists of names that classes keep in float32."""
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and target.id in KEPT:
                values = ast.walk(node.value) if node.value is not None else ()  # type: ignore[union-attr]
                yield (
                    target.id,
                    {one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)},
                )


def depth() -> dict[str, Any]:
    """What ``depth.json`` holds: model types of which a layer may compute otherwise in another place or among more layers,
    those that cannot be made here with other numbers of layers included."""
    found = []
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        few, more = (_layers(kind, count) for count in (4, 6))
        unknown = few is None or more is None
        if unknown or any(few[n] != more[n][:4] or len(set(map(str, few[n]))) > 1 for n in few.keys() & more.keys()):
            found.append(kind)
    return {"transformers": transformers.__version__, "families": found}


def _layers(kind: str, count: int) -> dict[str, list[Any]] | None:
    """What the layers of a model of that type and depth hold; ``None`` if it cannot be made so."""
    try:
        settings = CONFIG_MAPPING[kind]()
        text = settings.get_text_config()
        settings = type(text)(num_hidden_layers=count)
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
        config = {**json.loads(settings.to_json_string()), "architectures": [architecture]}
        return by_layer(Desk.__new__(Desk), config=json.dumps(config), count=count)
    except Exception:  # configs whose defaults do not go together
        return None


SMALL = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
WINDOW = "sliding_window"
GENERIC = {*transformers.PretrainedConfig().to_dict(), "model_type", "pretraining_tp"}


def classes() -> dict[str, Any]:
    """What ``classes.json`` holds: model types whose tensors and arithmetic are those of another one, with the class of each,
    the keys of its config with their defaults, and the types as which it may be loaded."""
    models = {kind: model for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if (model := _small(kind)) is not None}
    shapes = {kind: {name: one.shape for name, one in model.state_dict().items()} for kind, model in models.items()}
    alike = {
        kind: [o for o in models if o != kind and shapes[o] == shapes[kind] and _computes_as(models[kind], o)]
        for kind in models
    }
    return {
        kind: {
            "class": type(models[kind]).__name__,
            "defaults": _defaults(kind),
            "alike": others,
        }
        for kind, others in alike.items()
        if others
    }


def _defaults(kind: str) -> dict[str, Any]:
    return {key: value for key, value in sorted(CONFIG_MAPPING[kind]().to_dict().items()) if key not in GENERIC}


def _small(kind: str, **settings: Any) -> transformers.PreTrainedModel | None:
    """A small model of a type without a window, in float64; ``None`` if its layers or positions differ in kind, or it cannot be
    made so."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    try:
        defaults = _defaults(kind)
        rope = defaults.get("rope_parameters") or {}
        lists = [key for key, value in defaults.items() if isinstance(value, list | dict) and value is not rope]
        is_own = str(name).endswith("ForCausalLM") and getattr(transformers, name).config_class.model_type == kind
        if not is_own or lists or rope.get("rope_type", "default") != "default":
            return None
        window = {WINDOW: None} if WINDOW in defaults else {}
        config = CONFIG_MAPPING[kind](**{**SMALL, **settings, **window})
        config._attn_implementation = "eager"
        with torch.device("meta"):
            if sum(weight.numel() for weight in getattr(transformers, name)(config).parameters()) > 1 << 20:
                return None
        made: transformers.PreTrainedModel = getattr(transformers, name)(config).double().eval()
        return made
    except Exception:  # configs that do not go together
        return None


def _computes_as(model: transformers.PreTrainedModel, kind: str) -> bool:
    """Whether the model of another type with these weights and settings gives the very same logits."""
    names = {name: weight.shape for name, weight in model.state_dict().items()}
    known, own = CONFIG_MAPPING[kind]().to_dict(), model.config.to_dict()
    settings = {key: value for key, value in own.items() if key in known and key not in GENERIC}
    other = _small(kind, **settings)
    if other is None or names != {name: weight.shape for name, weight in other.state_dict().items()}:
        return False
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3 for name, shape in names.items()
    }
    tokens = torch.randint(3, 48, (2, 24), generator=generator)
    for one in (model, other):
        one.load_state_dict(weights)
    try:
        with torch.no_grad():
            return torch.equal(model(tokens).logits, other(tokens).logits)
    except Exception:  # settings that one of them cannot compute with
        return False


TABLES: dict[str, Callable[[], dict[str, Any]]] = {
    spelling.TABLE: spellings,
    precision.TABLE: float32,
    depths.TABLE: depth,
    relabel.TABLE: classes,
}


def main() -> None:
    """Write the files."""
    folder = Path(str(files("merge_assets.evaluation"))) / "names"
    for old in folder.glob("*"):
        old.unlink()
    names_made(folder, Limits())
    print(*folder.iterdir())
    for name, table in TABLES.items():
        file = Path(str(files("merge_assets.architecture") / name))
        file.write_text(json.dumps(table(), indent=1) + "\n")
        print(f"{file}: transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
