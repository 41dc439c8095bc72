"""What a model is made of, told from its config and its tensors' names and shapes, without a list of architectures.

Layers and parts, embedding and head, fused projections, experts, and how the config follows when layers are put together anew.
"""

from merge_assets.architecture.config import rewrite_config
from merge_assets.architecture.parts import DEFAULT_PART, Part, find_parts
from merge_assets.architecture.stacks import LayerStack, find_stacks

__all__ = ["DEFAULT_PART", "LayerStack", "Part", "find_parts", "find_stacks", "rewrite_config"]
