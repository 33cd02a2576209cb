"""Predictions, metrics, intervals."""
