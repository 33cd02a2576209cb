"""Fitting heads and predicting with them."""
