"""Tests of importing what others published."""
