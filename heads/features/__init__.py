"""What a head reads: embeddings, labels, windows."""
