"""The search for the best choice of inputs, parts and weights."""
