"""Tests of how YAML files are read."""
