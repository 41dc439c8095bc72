"""Kernels of the merge methods, one per file; their declarations are in :mod:`merge_assets.plan.methods`."""
