"""The gateway: one door in front of TorchServe and TensorFlow Serving."""

__version__ = "0.1.0"
