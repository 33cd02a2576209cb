"""The paper's tables over one's own store."""
