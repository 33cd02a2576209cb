"""Fitted heads on disk."""
