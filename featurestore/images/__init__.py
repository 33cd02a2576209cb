"""Where the frames' images are read from: a folder of files, or a pack."""
