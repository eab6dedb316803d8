"""The stand-in for TensorFlow Serving."""
