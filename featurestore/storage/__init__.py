"""What a feature store is kept in: named byte strings in a folder, in memory, in a ZIP file, in an object store."""
