"""BYTES in the TorchServe handler: a graph takes and gives them as all bytes and each element's length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gateway.codecs import torchserve
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import Tensor
from serving.torchserve import handler
from tests.builders import tensor
from tests.unit.serving.toys import Doubler, FakeContext, frame, write_model

pytestmark = pytest.mark.filterwarnings(r"ignore:.torch\.jit\.:DeprecationWarning")

TEXTS = ModelContract("texts", 1, (TensorSpec("x", "BYTES", (-1, 2)),), (TensorSpec("y", "BYTES", (-1, 2)),))


class Reverser(torch.nn.Module):
    """The elements in reverse order, each of them backwards: all bytes backwards."""

    def forward(self, x: tuple[torch.Tensor, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Reverses both."""
        data, lengths = x
        return {"y": (data.flip(0), lengths.flatten().flip(0).reshape(lengths.shape))}


class Fixed(torch.nn.Module):
    """The bytes as they are, divided by these lengths."""

    def __init__(self, lengths: list[list[int]]) -> None:
        super().__init__()
        self.lengths = torch.tensor(lengths)

    def forward(self, x: tuple[torch.Tensor, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Another pair."""
        return {"y": (x[0], self.lengths)}


def answered(folder: Path, model: torch.nn.Module, sent: Tensor) -> Tensor:
    """What the handler answers for a model; raises the frame's error."""
    context = FakeContext(write_model(folder, model, TEXTS), TEXTS)
    handler.handle(None, context)
    (reply,) = handler.handle([{"frame": frame([sent])}], context) or []
    (output,) = torchserve.decode_frame(reply).outputs
    return output


@pytest.mark.parametrize("values", [[[b"", b"\xff\x00"], [b"abc", b"d"]], np.zeros((0, 2))])
def test_bytes_reach_the_graph_as_all_bytes_and_their_lengths(tmp_path: Path, values: Any) -> None:
    """A graph over the pair gives a pair back: any bytes, and no rows."""
    sent = tensor("x", values, "BYTES")
    answer = answered(tmp_path, Reverser(), sent)
    assert answer.array.tolist() == [[item[::-1] for item in row[::-1]] for row in sent.array.tolist()[::-1]]
    assert answer.shape == sent.shape


@pytest.mark.parametrize("lengths", [[[1, 2]], [[3, -1]]])
def test_lengths_that_do_not_divide_the_bytes_are_the_models_failure(tmp_path: Path, lengths: list[list[int]]) -> None:
    """Lengths that are negative, or that do not add up to the bytes, are no tensor."""
    with pytest.raises(GatewayError, match=r"gave no output 'y' of BYTES \[-1, 2\]") as failed:
        answered(tmp_path, Fixed(lengths), tensor("x", [[b"a", b"b"]], "BYTES"))
    assert failed.value.cause is Cause.UPSTREAM_FAILED


def test_a_graph_that_takes_no_pair_fails_by_its_own_words(tmp_path: Path) -> None:
    """TorchScript checks the types of its arguments."""
    with pytest.raises(GatewayError, match="Prediction failed: ") as failed:
        answered(tmp_path, Doubler(), tensor("x", [[b"a", b"b"]], "BYTES"))
    assert failed.value.cause is Cause.UPSTREAM_FAILED
