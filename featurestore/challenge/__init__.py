"""The challenge's files: annotations and test lists read into tables, audited, and answered by submissions."""
