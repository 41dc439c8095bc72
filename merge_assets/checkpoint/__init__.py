"""What lies on disk: safetensors headers, tokenizer files, adapters, digests."""

from merge_assets.checkpoint.adapter import LoraAdapter, LowRank, adapter_error, read_lora
from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.digest import (
    CheckpointDigest,
    digest_checkpoint,
    fingerprint_of,
    known_digests,
    table_digest,
)
from merge_assets.checkpoint.files import (
    TOKENIZER_FILES,
    carried_files,
    fingerprint_files,
    is_adapter,
    needed_files,
    tokenizer_files,
)
from merge_assets.checkpoint.finite import nonfinite_elements
from merge_assets.checkpoint.header import header_length, parse_header
from merge_assets.checkpoint.open import (
    CheckpointSource,
    adapter_files,
    find_weight_files,
    open_adapter,
    open_any,
    open_checkpoint,
    read_adapter,
    read_checkpoint,
    read_index,
)
from merge_assets.checkpoint.packed import PackedWeight
from merge_assets.checkpoint.quantised import Quantised, ScaledWeight, read_quantised, read_unscaled
from merge_assets.checkpoint.tensors import CODES, DTYPES, TORCH_NAMES, TensorHeader
from merge_assets.checkpoint.tokenizer import Tokenizer, read_chat_template, read_tokenizer

__all__ = [
    "CODES",
    "DTYPES",
    "TOKENIZER_FILES",
    "TORCH_NAMES",
    "Checkpoint",
    "CheckpointDigest",
    "CheckpointSource",
    "LoraAdapter",
    "LowRank",
    "PackedWeight",
    "Quantised",
    "ScaledWeight",
    "TensorHeader",
    "Tokenizer",
    "adapter_error",
    "adapter_files",
    "carried_files",
    "digest_checkpoint",
    "find_weight_files",
    "fingerprint_files",
    "fingerprint_of",
    "header_length",
    "is_adapter",
    "known_digests",
    "needed_files",
    "nonfinite_elements",
    "open_adapter",
    "open_any",
    "open_checkpoint",
    "parse_header",
    "read_adapter",
    "read_chat_template",
    "read_checkpoint",
    "read_index",
    "read_lora",
    "read_quantised",
    "read_tokenizer",
    "read_unscaled",
    "table_digest",
    "tokenizer_files",
]
