"""The variants, built once for this checkout, and the stack that serves all of one model's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtests.golden import Golden, load_golden
from models import record
from serving.local import LocalStack
from serving.settings import LaunchSettings, Ports
from twinserve.client import Answer, Question, predict_grpc, predict_rest

ROOT = Path(__file__).resolve().parents[2]
# All variants of the small models; the real ones are only tried as they are served by default.
WHOLE = ("simplenn", "digits")
REAL = ("minilm", "minilm-ids", "resnet50")


@dataclass(frozen=True)
class Served:
    """One model with all that is known of its variants, and the running stack that serves those that there are."""

    name: str
    base: Path
    golden: Golden
    records: tuple[record.Record, ...]
    stack: LocalStack

    def ask(self, door: str, variant: str, first: int, last: int) -> Answer:
        """The answer to some golden rows over `rest` or `grpc`; raises PredictError."""
        inputs = {name: array[first:last] for name, array in self.golden.inputs.items()}
        question = Question(self.name, inputs, variant=variant)
        if door == "rest":
            return predict_rest(self.stack.gateway_rest, question)
        return predict_grpc(self.stack.gateway_grpc, question)


def build(models: tuple[str, ...], variants: str) -> None:
    """Builds what is not built yet; fails with the build's own words."""
    command = [sys.executable, "-m", "models.build", "--root", str(ROOT / "artifacts" / "models")]
    command += ["--variants", variants, *(part for name in models for part in ("--model", name))]
    subprocess.run(command, check=True, cwd=ROOT)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder of the tests' own, with the models and variants of this checkout."""
    build(WHOLE, "all")
    folder = tmp_path_factory.mktemp("artifacts")
    (folder / "models").symlink_to(ROOT / "artifacts" / "models")
    return folder


@pytest.fixture(scope="module", params=WHOLE)
def served(request: pytest.FixtureRequest, artifacts: Path) -> Iterator[Served]:
    """One model with everything that can be served of it."""
    name = request.param
    base = artifacts / "models" / name
    settings = LaunchSettings(artifacts=artifacts, models=name, variants="all")
    with LocalStack(settings, Ports.free(), report=print) as stack:
        yield Served(name, base, load_golden(artifacts, name), tuple(record.load_all(base)), stack)
