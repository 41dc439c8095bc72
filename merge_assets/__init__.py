"""Declarative model merging: a YAML recipe becomes merged, analysed, evaluated and ranked models."""

__version__ = "0.1.0"
