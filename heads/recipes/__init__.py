"""Published systems as recipes, fitted side by side."""
