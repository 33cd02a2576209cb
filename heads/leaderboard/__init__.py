"""Recipes fitted side by side, in one table beside the published scores."""
