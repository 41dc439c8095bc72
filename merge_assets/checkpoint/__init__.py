"""What lies on disk: safetensors headers, layer stacks, config edits, tokenizer files, digests."""

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.config import rewrite_config
from merge_assets.checkpoint.digest import CheckpointDigest, digest_checkpoint, fingerprint_of
from merge_assets.checkpoint.files import (
    TOKENIZER_FILES,
    carried_files,
    fingerprint_files,
    needed_files,
    tokenizer_files,
)
from merge_assets.checkpoint.header import header_length, parse_header
from merge_assets.checkpoint.open import (
    CheckpointSource,
    find_weight_files,
    open_checkpoint,
    read_checkpoint,
    read_index,
)
from merge_assets.checkpoint.stacks import LayerStack, find_stacks
from merge_assets.checkpoint.tensors import CODES, DTYPES, TORCH_NAMES, TensorHeader

__all__ = [
    "CODES",
    "DTYPES",
    "TOKENIZER_FILES",
    "TORCH_NAMES",
    "Checkpoint",
    "CheckpointDigest",
    "CheckpointSource",
    "LayerStack",
    "TensorHeader",
    "carried_files",
    "digest_checkpoint",
    "find_stacks",
    "find_weight_files",
    "fingerprint_files",
    "fingerprint_of",
    "header_length",
    "needed_files",
    "open_checkpoint",
    "parse_header",
    "read_checkpoint",
    "read_index",
    "rewrite_config",
    "tokenizer_files",
]
