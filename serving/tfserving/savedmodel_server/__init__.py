"""The stand-in: TensorFlow Serving's wire protocols over TensorFlow's own runtime."""
