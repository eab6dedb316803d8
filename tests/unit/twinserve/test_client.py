"""The small client's own forms."""

from __future__ import annotations

import numpy as np
import pytest

from twinserve.client import PredictError, plain


def test_bytes_become_text_in_json() -> None:
    """As golden rows of a BYTES input are; nested as they were."""
    rows = np.array([[b"a", "ž".encode()]], object)
    assert plain(rows) == [["a", "ž"]]
    assert plain(np.ones((1, 2), np.float32)) == [[1.0, 1.0]]
    assert plain([["a"]]) == [["a"]]


def test_bytes_that_are_no_text_are_for_grpc() -> None:
    """JSON has no form for them."""
    with pytest.raises(PredictError, match="ask over grpc"):
        plain(np.array([b"\xff"], object))
