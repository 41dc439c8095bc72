"""Families of the architecture matrix that are of the last two years."""

from __future__ import annotations

import torch

from tests.family import EXPERTS, IMAGE_TOKEN, MLA, SMALL, TEXT, VISION, Family

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
HEADS = {**TEXT, "head_dim": 8}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
EYES = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4}
VISION_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": 61,
    "vision_start_token_id": 62,
    "vision_end_token_id": 63,
}
MROPE = {**PLAIN, "mrope_section": [1, 1, 2]}
RECENT = (
    Family(
        "Qwen3.5 (text)", "Qwen3_5ForCausalLM", "Qwen3_5TextConfig", {**HEADS, **LINEAR_ATTENTION}, dtype=torch.float32
    ),
    Family(
        "Qwen3.5",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5Config",
        {
            "text_config": {**HEADS, **LINEAR_ATTENTION, "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}},
            "vision_config": {**EYES, "num_position_embeddings": 16},
            **VISION_TOKENS,
        },
        dtype=torch.float32,
    ),
    Family(
        "Qwen3.5-MoE",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeTextConfig",
        {**HEADS, **EXPERTS, **LINEAR_ATTENTION, "shared_expert_intermediate_size": 16},
        dtype=torch.float32,
    ),
    Family(
        "Qwen3-VL-MoE",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3VLMoeConfig",
        {
            "text_config": {**HEADS, **EXPERTS, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
            "vision_config": {**EYES, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16},
            **VISION_TOKENS,
        },
    ),
    Family(
        "Kimi-Linear",
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        {
            **SMALL,
            **MLA,
            "num_local_experts": 4,
            "q_lora_rank": None,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        },
        dtype=torch.float32,
    ),
    Family(
        "MiniMax",
        "MiniMaxForCausalLM",
        "MiniMaxConfig",
        {**HEADS, "num_local_experts": 3, "layer_types": ["linear_attention", "full_attention"] * 2},
    ),
    Family(
        "MiniMax-M2",
        "MiniMaxM2ForCausalLM",
        "MiniMaxM2Config",
        {**HEADS, "num_local_experts": 3, "num_experts_per_tok": 2},
    ),
    Family("GLM-4", "Glm4ForCausalLM", "Glm4Config", HEADS),
    Family("GLM-4.7-Flash", "Glm4MoeLiteForCausalLM", "Glm4MoeLiteConfig", {**SMALL, **MLA}),
    Family(
        "Gemma3n (text)",
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        {
            **HEADS,
            "vocab_size_per_layer_input": 64,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "sliding_window": 8,
        },
    ),
    Family(
        "Gemma4 (text)",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            **HEADS,
            "global_head_dim": 8,
            "vocab_size_per_layer_input": 64,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 8,
        },
    ),
    Family(
        "Llama-4 (vision)",
        "Llama4ForConditionalGeneration",
        "Llama4Config",
        {
            "text_config": {
                **HEADS,
                "intermediate_size_mlp": 48,
                "num_local_experts": 2,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 16,
            },
            "vision_config": {**VISION, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
            "image_token_index": IMAGE_TOKEN,
        },
    ),
    Family("LFM2", "Lfm2ForCausalLM", "Lfm2Config", {**TEXT, "layer_types": ["conv", "full_attention"] * 2}),
    Family(
        "LFM2-MoE",
        "Lfm2MoeForCausalLM",
        "Lfm2MoeConfig",
        {**TEXT, **EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"] * 2},
    ),
    Family(
        "Falcon-H1",
        "FalconH1ForCausalLM",
        "FalconH1Config",
        {**HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8},
        dtype=torch.float32,
    ),
    Family(
        "Ministral",
        "MinistralForCausalLM",
        "MinistralConfig",
        {**HEADS, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8},
    ),
    Family("Ministral-3", "Ministral3ForCausalLM", "Ministral3Config", HEADS),
    Family(
        "Mistral-3",
        "Mistral3ForConditionalGeneration",
        "Mistral3Config",
        {
            "text_config": {**HEADS, "model_type": "mistral"},
            "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 8},
            "image_token_index": IMAGE_TOKEN,
        },
    ),
    Family(
        "OLMo3",
        "Olmo3ForCausalLM",
        "Olmo3Config",
        {**TEXT, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8},
    ),
    Family("OLMoE", "OlmoeForCausalLM", "OlmoeConfig", {**TEXT, "num_experts": 3, "num_experts_per_tok": 2}),
    Family("Hunyuan (dense)", "HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", HEADS),
    Family(
        "Hunyuan (MoE)", "HunYuanMoEV1ForCausalLM", "HunYuanMoEV1Config", {**HEADS, "num_experts": 3, "moe_topk": 2}
    ),
    Family("Ernie-4.5", "Ernie4_5ForCausalLM", "Ernie4_5Config", HEADS),
    Family(
        "Ernie-4.5-MoE",
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        {**TEXT, "moe_num_experts": 3, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1},
    ),
    Family(
        "SmolVLM",
        "SmolVLMForConditionalGeneration",
        "SmolVLMConfig",
        {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": VISION,
            "image_token_id": IMAGE_TOKEN,
            "scale_factor": 2,
            "pad_token_id": 0,
        },
    ),
    Family(
        "InternVL",
        "InternVLForConditionalGeneration",
        "InternVLConfig",
        {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [8, 8]},
            "image_token_id": IMAGE_TOKEN,
        },
    ),
    Family(
        "DeepSeek-V3.2",
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        {**SMALL, **MLA, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4},
    ),
    Family("DeepSeek-V4", "DeepseekV4ForCausalLM", "DeepseekV4Config", {**TEXT, **MLA}, dtype=torch.float32),
    Family(
        "EXAONE-4", "Exaone4ForCausalLM", "Exaone4Config", {**HEADS, "sliding_window": 8, "sliding_window_pattern": 2}
    ),
    Family("Seed-OSS", "SeedOssForCausalLM", "SeedOssConfig", HEADS),
    Family("Apertus", "ApertusForCausalLM", "ApertusConfig", TEXT),
    Family("Phi-MoE", "PhimoeForCausalLM", "PhimoeConfig", {**TEXT, "num_local_experts": 3}),
    Family(
        "dots.llm1",
        "Dots1ForCausalLM",
        "Dots1Config",
        {
            **HEADS,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
        },
    ),
    Family("ModernBERT", "ModernBertForMaskedLM", "ModernBertConfig", {**SMALL, "local_attention": 8}, generates=False),
)
