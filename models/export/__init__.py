"""One module per variant that a trained model is exported to."""
