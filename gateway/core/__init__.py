"""What the gateway is about, without a protocol and without I/O: tensors, messages, errors, interfaces."""
