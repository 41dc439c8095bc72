"""A model family: how a tiny random model of it is made with transformers, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 64
IMAGE_TOKEN = 60
IMAGE, PATCH, CHANNELS = 16, 8, 3
IMAGE_TOKENS = (IMAGE // PATCH) ** 2

TEXT: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL: Mapping[str, Any] = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
EXPERTS: Mapping[str, Any] = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
VISION: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "num_channels": CHANNELS,
}


@dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
        name: as people call it.
        model: class of transformers.
        config: class of transformers.
        settings: arguments of the config.
        inputs: which inputs a forward pass takes, a key of :data:`INPUTS`.
        generates: whether it is asked to generate.
        dtype: of the files.
    """

    name: str
    model: str
    config: str
    settings: Mapping[str, Any]
    inputs: str = "text"
    generates: bool = True
    dtype: torch.dtype = field(default=torch.bfloat16)

    def save(self, folder: Path, seed: int) -> Path:
        """Write a model with random weights, norms and biases included."""
        import transformers

        torch.manual_seed(seed)
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.settings))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.to(self.dtype).save_pretrained(folder)
        return folder

    def load(self, folder: Path) -> tuple[Any, dict[str, Any]]:
        """The model of a folder, and what transformers says about its tensors."""
        import transformers

        kind = getattr(transformers, self.model)
        model, report = kind.from_pretrained(folder, dtype="auto", output_loading_info=True)
        for parameter in model.parameters():
            # Loaded tensors lie where they do in the file, and the order of sums depends on alignment.
            parameter.data = parameter.data.clone()
        return model.eval(), report

    def run(self, model: Any) -> torch.Tensor:
        """The logits of one forward pass."""
        with torch.inference_mode():
            output = model(**self._given(model))
        logits: torch.Tensor = output.logits
        return logits

    def generate(self, model: Any) -> torch.Tensor:
        """A few tokens, greedily."""
        given = {key: value for key, value in self._given(model).items() if not key.startswith("decoder")}
        with torch.inference_mode():
            tokens: torch.Tensor = model.generate(**given, max_new_tokens=3, do_sample=False)
        return tokens

    def _given(self, model: Any) -> dict[str, torch.Tensor]:
        return {
            key: value.to(model.dtype) if value.is_floating_point() else value
            for key, value in INPUTS[self.inputs]().items()
        }


def _words(length: int = 7) -> torch.Tensor:
    return torch.arange(3, 3 + length)[None]


def _picture() -> torch.Tensor:
    return torch.linspace(-1, 1, CHANNELS * IMAGE * IMAGE).reshape(1, CHANNELS, IMAGE, IMAGE)


INPUTS: Mapping[str, Callable[[], dict[str, torch.Tensor]]] = {
    "text": lambda: {"input_ids": _words()},
    "two texts": lambda: {"input_ids": _words(), "decoder_input_ids": _words(3)},
    "image": lambda: {"pixel_values": _picture()},
    "image and text": lambda: {
        "input_ids": torch.cat([torch.full((1, IMAGE_TOKENS), IMAGE_TOKEN), _words()], 1),
        "pixel_values": _picture(),
    },
    "sound and text": lambda: {
        "input_features": torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32),
        "decoder_input_ids": _words(3),
    },
}
