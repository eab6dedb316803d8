"""minilm beside sentence-transformers, which runs in an environment of its own on the same weights."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import numpy as np
import pytest

from models.train import predict_torch
from models.zoo.minilm import data, preprocess
from models.zoo.minilm_ids import torch_net
from tests.integration.clients.world import PROGRAM_TAKES_S, PROGRAMS, made

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the reference says of every test text."""
    done = subprocess.run(
        [str(made("sentences", "python")), str(PROGRAMS / "sentences_reference.py")],
        input=json.dumps(data.texts("test")),
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TAKES_S,
        env={},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_reference_that_is_kept_is_what_it_says_today(told: dict[str, Any]) -> None:
    """On another CPU its last bit may differ."""
    assert np.abs(np.asarray(told["embeddings"]) - data.reference()).max() < 1e-6


def test_texts_are_cut_into_the_same_tokens(told: dict[str, Any]) -> None:
    """Every test text, the odd ones and those that are too long."""
    ours = [encoding.ids for encoding in preprocess.tokenizer().encode_batch(data.texts("test"))]
    assert ours == told["ids"]


def test_our_embeddings_are_within_1e_5_of_it(told: dict[str, Any]) -> None:
    """All in one batch here, filled up to the longest; one at a time there."""
    rows = preprocess.network_rows({"text": data.encoded(data.texts("test"))})
    answers = predict_torch(torch_net.pretrained(), rows)
    assert np.abs(answers - np.asarray(told["embeddings"])).max() < 1e-5
