"""Rendered faces: a dataset in s-Aff-Wild2's layout in which the truth is known."""
