"""Which request this is, in a few bytes that tell nothing of what is in it."""

from __future__ import annotations

from hashlib import blake2b

from gateway.core.messages import InferenceRequest
from gateway.core.tensor import to_raw


def digest(request: InferenceRequest) -> bytes:
    """16 bytes that tell one request's model and inputs from another's."""
    hashed = blake2b(request.model.name.encode(), digest_size=16)
    for tensor in request.inputs:
        hashed.update(f"\0{tensor.name}\0{tensor.datatype}{tensor.shape}".encode())
        hashed.update(to_raw(tensor))
    return hashed.digest()
