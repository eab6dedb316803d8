"""The model servers and how to run them."""
