"""A variant as a folder: what lies in it beside its weights, and what it is checked for."""
