"""TensorFlow Serving: its configuration, and the stand-in for where it cannot run."""
