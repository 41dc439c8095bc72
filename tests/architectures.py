"""The model families of the architecture matrix: tiny random models, made with transformers.

Two siblings of every family are made once per test session and only when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from tests.family import EXPERTS, IMAGE_TOKEN, IMAGE_TOKENS, MLA, SMALL, TEXT, VISION, VOCABULARY, Family
from tests.recent_families import RECENT


def _families() -> tuple[Family, ...]:
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    return (
        Family("Llama", "LlamaForCausalLM", "LlamaConfig", TEXT),
        Family("Mistral", "MistralForCausalLM", "MistralConfig", {**TEXT, "sliding_window": 8}),
        Family("Mixtral", "MixtralForCausalLM", "MixtralConfig", {**TEXT, "num_local_experts": 3}),
        Family("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", {**TEXT, "tie_word_embeddings": True}),
        Family(
            "Qwen2-MoE",
            "Qwen2MoeForCausalLM",
            "Qwen2MoeConfig",
            {**TEXT, **EXPERTS, "shared_expert_intermediate_size": 16, "mlp_only_layers": [1]},
        ),
        Family("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**TEXT, "head_dim": 8}),
        Family(
            "Qwen3-MoE",
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            {**TEXT, **EXPERTS, "head_dim": 8, "decoder_sparse_step": 2},
        ),
        Family("Gemma", "GemmaForCausalLM", "GemmaConfig", {**TEXT, "head_dim": 8}),
        Family("Gemma2", "Gemma2ForCausalLM", "Gemma2Config", {**TEXT, "head_dim": 8, "sliding_window": 8}),
        Family(
            "Gemma3 (text)",
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            {**TEXT, "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2},
        ),
        Family(
            "Gemma3 (vision)",
            "Gemma3ForConditionalGeneration",
            "Gemma3Config",
            {
                "text_config": {**TEXT, "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2},
                "vision_config": {**VISION, "vision_use_head": False},
                "mm_tokens_per_image": IMAGE_TOKENS,
                "image_token_index": IMAGE_TOKEN,
                "boi_token_index": 61,
                "eoi_token_index": 62,
            },
            "image and text",
        ),
        Family("Phi-3", "Phi3ForCausalLM", "Phi3Config", {**TEXT, "original_max_position_embeddings": 64}),
        Family(
            "Phi-4-mini",
            "Phi3ForCausalLM",
            "Phi3Config",
            {
                **TEXT,
                "original_max_position_embeddings": 64,
                "partial_rotary_factor": 0.5,
                "tie_word_embeddings": True,
            },
        ),
        Family(
            "GPT-2",
            "GPT2LMHeadModel",
            "GPT2Config",
            {
                "n_embd": 32,
                "n_layer": 4,
                "n_head": 4,
                "n_positions": 64,
                "vocab_size": VOCABULARY,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        ),
        Family("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL),
        Family(
            "Falcon",
            "FalconForCausalLM",
            "FalconConfig",
            {key: value for key, value in SMALL.items() if key != "intermediate_size"},
        ),
        Family("StableLM", "StableLmForCausalLM", "StableLmConfig", TEXT),
        Family("OLMo2", "Olmo2ForCausalLM", "Olmo2Config", TEXT),
        Family("Cohere2", "Cohere2ForCausalLM", "Cohere2Config", {**TEXT, "sliding_window": 8}),
        Family("Granite (dense)", "GraniteForCausalLM", "GraniteConfig", TEXT),
        Family(
            "Granite (MoE hybrid)",
            "GraniteMoeHybridForCausalLM",
            "GraniteMoeHybridConfig",
            {
                **TEXT,
                "num_local_experts": 3,
                "num_experts_per_tok": 2,
                "shared_intermediate_size": 16,
                "mamba_n_heads": 4,
                "mamba_d_head": 16,
                "mamba_d_state": 8,
                "mamba_chunk_size": 8,
                "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
            },
            dtype=torch.float32,
        ),
        Family("SmolLM3", "SmolLM3ForCausalLM", "SmolLM3Config", TEXT),
        Family("DeepSeek-V2", "DeepseekV2ForCausalLM", "DeepseekV2Config", {**SMALL, **MLA, "topk_method": "greedy"}),
        Family("DeepSeek-V3", "DeepseekV3ForCausalLM", "DeepseekV3Config", {**SMALL, **MLA}),
        Family(
            "GPT-OSS",
            "GptOssForCausalLM",
            "GptOssConfig",
            {
                **TEXT,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "head_dim": 8,
                "sliding_window": 8,
                "rope_parameters": plain,
            },
        ),
        Family(
            "Llama-4",
            "Llama4ForCausalLM",
            "Llama4TextConfig",
            {
                **TEXT,
                "intermediate_size_mlp": 48,
                "num_local_experts": 2,
                "head_dim": 8,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 16,
            },
        ),
        Family(
            "LLaVA",
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            {
                "text_config": {"model_type": "llama", **TEXT},
                "vision_config": {"model_type": "clip_vision_model", **VISION},
                "image_token_index": IMAGE_TOKEN,
            },
            "image and text",
        ),
        Family(
            "Qwen2.5-VL",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen2_5_VLConfig",
            {
                "text_config": {**TEXT, "rope_parameters": {**plain, "mrope_section": [1, 1, 2]}},
                "vision_config": {
                    "depth": 3,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_heads": 4,
                    "out_hidden_size": 32,
                    "patch_size": 4,
                    "window_size": 16,
                    "fullatt_block_indexes": [1],
                },
                "image_token_id": IMAGE_TOKEN,
                "video_token_id": 61,
                "vision_start_token_id": 62,
                "vision_end_token_id": 63,
            },
        ),
        Family(
            "T5",
            "T5ForConditionalGeneration",
            "T5Config",
            {
                "d_model": 32,
                "d_ff": 48,
                "d_kv": 8,
                "num_heads": 4,
                "num_layers": 6,
                "num_decoder_layers": 4,
                "vocab_size": VOCABULARY,
                "decoder_start_token_id": 0,
            },
            "two texts",
        ),
        Family("BERT", "BertForMaskedLM", "BertConfig", SMALL, generates=False),
        Family(
            "ViT",
            "ViTForImageClassification",
            "ViTConfig",
            {**VISION, "num_hidden_layers": 4},
            "image",
            generates=False,
        ),
        Family(
            "Whisper",
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {
                "d_model": 32,
                "encoder_layers": 3,
                "decoder_layers": 4,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 48,
                "decoder_ffn_dim": 48,
                "num_mel_bins": 8,
                "max_source_positions": 16,
                "max_target_positions": 32,
                "vocab_size": VOCABULARY,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "decoder_start_token_id": 1,
            },
            "sound and text",
            generates=False,
        ),
        Family(
            "Mamba",
            "MambaForCausalLM",
            "MambaConfig",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "num_hidden_layers": 4,
                "state_size": 4,
                "time_step_rank": 4,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            dtype=torch.float32,
        ),
        # Beyond the list of the specification: layouts of their own kind.
        Family(
            "BART",
            "BartForConditionalGeneration",
            "BartConfig",
            {
                "d_model": 32,
                "encoder_layers": 4,
                "decoder_layers": 4,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 48,
                "decoder_ffn_dim": 48,
                "vocab_size": VOCABULARY,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "decoder_start_token_id": 1,
                "forced_eos_token_id": 2,
            },
            "two texts",
        ),
        Family(
            "GLM-4.5",
            "Glm4MoeForCausalLM",
            "Glm4MoeConfig",
            {
                **TEXT,
                "head_dim": 8,
                "moe_intermediate_size": 16,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "first_k_dense_replace": 1,
                "n_group": 1,
                "topk_group": 1,
            },
        ),
        Family(
            "Jamba",
            "JambaForCausalLM",
            "JambaConfig",
            {
                **TEXT,
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "attn_layer_period": 2,
                "attn_layer_offset": 1,
                "expert_layer_period": 2,
                "expert_layer_offset": 1,
                "mamba_d_state": 4,
                "mamba_dt_rank": 4,
                "use_mamba_kernels": False,
            },
            dtype=torch.float32,
        ),
        Family(
            "Nemotron-H",
            "NemotronHForCausalLM",
            "NemotronHConfig",
            {
                **TEXT,
                "layers_block_type": ["mamba", "attention", "moe", "attention"],
                "mamba_num_heads": 4,
                "mamba_head_dim": 16,
                "ssm_state_size": 8,
                "n_groups": 1,
                "chunk_size": 8,
                "head_dim": 8,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "moe_shared_expert_intermediate_size": 16,
            },
            dtype=torch.float32,
        ),
        Family(
            "Qwen3-Next",
            "Qwen3NextForCausalLM",
            "Qwen3NextConfig",
            {
                **TEXT,
                **EXPERTS,
                "head_dim": 8,
                "shared_expert_intermediate_size": 16,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
            },
            dtype=torch.float32,
        ),
        Family(
            "Qwen3-VL",
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLConfig",
            {
                "text_config": {
                    **TEXT,
                    "head_dim": 8,
                    "rope_parameters": {**plain, "mrope_section": [1, 1, 2], "mrope_interleaved": True},
                },
                "vision_config": {
                    "depth": 3,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_heads": 4,
                    "out_hidden_size": 32,
                    "patch_size": 4,
                    "deepstack_visual_indexes": [0, 1],
                    "num_position_embeddings": 16,
                },
                "image_token_id": IMAGE_TOKEN,
                "video_token_id": 61,
                "vision_start_token_id": 62,
                "vision_end_token_id": 63,
            },
        ),
    )


FAMILIES: Mapping[str, Family] = {family.name: family for family in (*_families(), *RECENT)}


class Zoo:
    """The families' models on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cache  # noqa: B019  # lives as long as the session
    def siblings(self, name: str) -> tuple[Path, Path]:
        """Folders of two models of a family with different weights."""
        folder = self._root / "".join(letter if letter.isalnum() else "-" for letter in name)
        family = FAMILIES[name]
        return family.save(folder / "a", 1), family.save(folder / "b", 2)
