"""Text in the TorchServe handler: a packed tokenizer makes it into the network's ids and mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause
from gateway.core.messages import TensorSpec
from serving.torchserve import handler
from tests.unit.serving.toys import FakeContext, write_model

pytestmark = pytest.mark.filterwarnings(r"ignore:.torch\.jit\.:DeprecationWarning")

ITS = ModelContract("t", 1, (TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("y", "INT64", (-1, 2)),), batch_cap=8)


class Counter(torch.nn.Module):
    """The sum of each row's ids, and how many of them the mask keeps."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Two columns."""
        return torch.stack([(ids * mask).sum(1), mask.sum(1)], 1)


@pytest.fixture
def service(tmp_path: Path) -> handler.Service:
    """A model of words, at most four of them."""
    words = Tokenizer(models.WordLevel({"?": 0, "one": 1, "two": 2, "three": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_padding(length=64)
    words.save(str(tmp_path / "tokenizer.json"))
    options = {"preprocess": {"tokenizer": "tokenizer.json", "max_tokens": 4}}
    return handler.Service(FakeContext(write_model(tmp_path, Counter(), ITS), ITS, yaml=options))  # type: ignore[arg-type]


def _asked(service: handler.Service, *texts: bytes) -> list[list[int]]:
    rows = np.empty(len(texts), object)
    rows[:] = texts
    (answer,) = service.infer(handler.Request((handler.Tensor("text", "BYTES", rows),)))
    return answer.array.tolist()  # type: ignore[no-any-return]


def test_texts_of_different_lengths_are_one_batch(service: handler.Service) -> None:
    """Filled up to the longest and masked; cut to the most tokens; an empty one has none."""
    assert _asked(service, b"one two", b"", b"three", b"two two two two two") == [[3, 2], [0, 0], [3, 1], [8, 4]]
    assert _asked(service) == []


def test_bytes_that_are_no_text_are_refused(service: handler.Service) -> None:
    """By the input's name and the first bad byte."""
    with pytest.raises(handler.Refused, match=r"input 'text' is not UTF-8: invalid start byte at byte 4") as refused:
        _asked(service, b"one \xff")
    assert refused.value.cause == Cause.INVALID_INPUT


def test_a_text_that_would_keep_the_tokenizer_busy_is_refused_before(service: handler.Service) -> None:
    """It would be worked through whole to be cut to four tokens; the longest that is taken is answered."""
    assert _asked(service, b"two " * 16_384) == [[8, 4]]
    expected = "input 'text' has a text of 65537 bytes; a text has at most 65536"
    with pytest.raises(handler.Refused, match=expected) as refused:
        _asked(service, b"one", b"two " * 16_384 + b"x")
    assert refused.value.cause == Cause.INVALID_INPUT


def test_the_warm_up_of_text_is_text(service: handler.Service, caplog: pytest.LogCaptureFixture) -> None:
    """It runs without a warning."""
    service.warm_up()
    assert caplog.text == ""
