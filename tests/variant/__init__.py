"""Tests of what makes tensors a variant."""
