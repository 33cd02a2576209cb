"""Post-processing fitted on predictions, and blends of them."""
