"""What an encoder is, and the forms in which people have one: presets, checkpoints, ONNX, encoder folders."""
