"""TensorFlow's variants in processes of their own: XLA compiles nothing in service, and the stand-in runs each file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.build import build
from models.record import load
from models.variants import VARIANTS
from models.workshop import make, verify
from models.zoo import MODELS

pytestmark = pytest.mark.variants

ROOT = Path(__file__).resolve().parents[2]
TENSORFLOW = [variant for variant in VARIANTS.values() if variant.stack == "tfserving"]
# XLA writes a file for every module that it compiles: they are counted after the warm-up, and after every batch size.
COUNT = """
import json, sys
from pathlib import Path
from serving.tfserving.savedmodel_server.loading import Loader, LoadOptions
import numpy as np
folder, dumped, name, output, *shape = sys.argv[1:]
compiled = lambda: sum(1 for _ in Path(dumped).glob("*after_optimizations.txt"))
loaded = Loader(LoadOptions())(Path(folder))
warm = compiled()
for rows in (*range(1, 40), 64, 100, 256):
    array = np.ones((rows, *map(int, shape)), np.float32)
    answer = loaded.signature("").run({name: array}, [output], None)[output]
    assert len(answer) == rows, (rows, answer.shape)
print(json.dumps([warm, compiled()]))
"""


@pytest.fixture(scope="module", params=["simplenn", "digits"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built model with all variants of the TensorFlow stack."""
    root = tmp_path_factory.mktemp("models")
    build([request.param], root)
    make([request.param], TENSORFLOW, root, report=print)
    return root / request.param


def test_all_but_what_has_a_reason_is_available_and_verified_again(base: Path) -> None:
    """Of the regression nothing is large enough for dynamic quantization, and its raw inputs are too unlike for one
    scale; TF-TRT is in no package of TensorFlow.
    """
    reasons = {variant.name: load(base, variant).reason for variant in TENSORFLOW}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    assert missing.keys() == {"tf-trt", *(["tflite-dynamic", "tflite-int8"] if base.name == "simplenn" else [])}
    told: dict[str, str] = {}
    verify([base.name], TENSORFLOW, base.parent, lambda event: told.update({event["step"]: event["status"]}))
    assert told == {name: "done" for name in reasons if name not in missing and not VARIANTS[name].default}


def test_xla_compiles_for_its_warm_up_and_never_in_service(base: Path, tmp_path: Path) -> None:
    """Every number of rows is padded to a size that was compiled before the server was ready."""
    definition = MODELS[base.name]
    (taken,), (given,) = definition.inputs, definition.outputs
    arguments = [str(base / "variants" / "xla" / "1"), str(tmp_path), taken.name, given.name]
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments, *map(str, taken.shape[1:])],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    warm, after = json.loads(done.stdout.splitlines()[-1])
    assert warm > 0
    assert after == warm
