"""TensorFlow Serving, real and stand-in."""
