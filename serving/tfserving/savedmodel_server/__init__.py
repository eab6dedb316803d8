"""The stand-in: TensorFlow Serving's wire protocols over TensorFlow's own runtime.

Every answer carries `MARK`, so that gateway, launcher and load tests never take it for TensorFlow Serving.
"""

VERSION = "1.0"
MARK_HEADER = "x-server"
MARK = f"savedmodel-server/{VERSION} (stand-in)"
