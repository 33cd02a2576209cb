"""What is in a store, in numbers and pictures, and whether it is still what was committed."""
