"""Embeddings from and for other tools: HDF5, .npz, .npy, pickles, Parquet, and other feature stores."""
