"""The merge methods: what a plan must know of each, and its arithmetic.

A method is one file in :mod:`merge_assets.methods.built_in`, or one of another package. It ends with its declaration, a
:class:`Method` called ``METHOD``, of which the kernel is a part. Neither imports torch: a kernel gets tensors, and the library
that they are of, from the engine.
"""

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.registry import find_method, is_exact, methods

__all__ = ["Method", "Parameter", "find_method", "is_exact", "methods"]
