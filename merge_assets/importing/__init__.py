"""Imports a published variant: the merge config in a model card, a web page or any text becomes a recipe."""
