"""One module per source module."""
