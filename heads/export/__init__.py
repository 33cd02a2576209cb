"""Fitted heads as ONNX files."""
