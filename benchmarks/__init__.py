"""Timings against mergekit and of loading the definitions; `make bench` runs them."""
