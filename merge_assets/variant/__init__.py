"""A merged checkpoint as a whole: what its config and tensors agree on, its checks, and the files around its weights."""
