"""Published systems as recipes."""
