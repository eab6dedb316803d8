"""Every variant through the gateway, by its own contract, over REST and gRPC; what cannot be had, with the reason."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.core.contract import ModelContract
from loadtests.golden import load_golden
from models import manifest, record
from models.variants import VARIANTS
from models.verify import judge
from models.zoo import MODELS
from serving.local import LocalStack
from serving.settings import LaunchSettings, Ports
from tests.variants.conftest import Served
from twinserve.client import PredictError, Question, predict_grpc, predict_rest

pytestmark = [pytest.mark.variants, pytest.mark.servers]

ROWS = 64


def test_every_available_variant_answers_by_its_own_contract(served: Served) -> None:
    """The golden rows, in the same batches over both doors; told is which variant answered."""
    available = [item.variant for item in served.records if item.available]
    assert {"torchscript", "savedmodel"} <= set(available)
    faults = {name: fault for name in available if (fault := _fault(served, name))}
    assert faults == {}
    print(f"{served.name}: {len(available)} variants answered: {', '.join(available)}")


def _fault(served: Served, name: str) -> str | None:
    """What is wrong with a variant's answers; None where they keep its contract."""
    batches = [(first, min(first + ROWS, served.golden.rows)) for first in range(0, served.golden.rows, ROWS)]
    (output,) = (spec.name for spec in served.golden.contract.outputs)
    try:
        answers = [served.ask("grpc", name, *rows) for rows in batches]
        over_rest = served.ask("rest", name, *batches[0])
        single = served.ask("grpc", name, 0, 1)
    except PredictError as exc:
        return f"not answered: {exc}"
    told = {f"variant={name}" in answer.served_by for answer in (*answers, over_rest, single)}
    if told != {True}:
        return f"served by {answers[0].served_by}"
    if not np.allclose(over_rest.outputs[output], answers[0].outputs[output], atol=1e-5, rtol=1e-4):
        return "REST and gRPC differ for the same rows"
    tested = np.concatenate([answer.outputs[output] for answer in answers])
    return _breach(served, name, {output: tested})


def _breach(served: Served, name: str, tested: dict[str, np.ndarray]) -> str | None:
    """How the answers to all golden rows break the contract of a variant; None where they keep it."""
    if VARIANTS[name].default:
        return served.golden.fault(0, served.golden.rows, tested)
    contract = ModelContract.load(record.folder_of(served.base, name) / "contract.json")
    definition = MODELS[served.name]
    # The golden rows are the first ones of the test set.
    data = definition.module("data").load(manifest.load(served.base).seed)
    try:
        judge(definition, contract, tested, served.golden.outputs, data.test_targets[: served.golden.rows])
    except RuntimeError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("door", ["rest", "grpc"])
def test_every_unavailable_variant_is_refused_with_its_reason(served: Served, door: str) -> None:
    """404 with what the build found out, and with the variants that there are."""
    missing = [item for item in served.records if not item.available]
    there = [item.variant for item in served.records if item.available]
    for item in missing:
        with pytest.raises(PredictError) as caught:
            served.ask(door, item.variant, 0, 1)
        text = str(caught.value)
        assert text.startswith("404" if door == "rest" else "NOT_FOUND"), text
        assert f"variant '{item.variant}' of model '{served.name}' is not available: {item.reason}" in text
        assert all(f"'{name}'" in text for name in there)
        print(f"{served.name} {item.variant}: {item.reason}")


def test_no_variant_answers_whoever_names_none(served: Served) -> None:
    """Neither by policy nor by the name of a stack."""
    for stack, variant in ((None, "torchscript"), ("torchserve", "torchscript"), ("tfserving", "savedmodel")):
        inputs = {name: array[:1] for name, array in served.golden.inputs.items()}
        answer = predict_rest(served.stack.gateway_rest, Question(served.name, inputs, stack=stack))
        assert answer.served_by.endswith(f"variant={variant}")


def test_a_corrupt_variant_is_refused_and_the_others_are_served(artifacts: Path, tmp_path: Path) -> None:
    """By its sha256, before a server loads it; who asks for it is told which file, and what to do."""
    name = "simplenn"
    base = tmp_path / "models" / name
    shutil.copytree(artifacts / "models" / name, base)
    ready = {
        item.variant: item for item in record.load_all(base) if item.available and not VARIANTS[item.variant].default
    }
    corrupt, good = list(ready)[:2]
    file = record.folder_of(base, corrupt) / next(iter(ready[corrupt].files))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    golden = load_golden(tmp_path, name)
    inputs = {key: array[:1] for key, array in golden.inputs.items()}
    said: list[str] = []
    settings = LaunchSettings(artifacts=tmp_path, models=name, variants=f"{corrupt},{good}")
    with LocalStack(settings, Ports.free(), report=said.append) as stack:
        assert f"left out: {name} as {corrupt}: {file}: changed since it was built" in "\n".join(said)
        with pytest.raises(PredictError, match=f"404.*variant '{corrupt}' .* changed since it was built"):
            predict_rest(stack.gateway_rest, Question(name, inputs, variant=corrupt))
        answer = predict_rest(stack.gateway_rest, Question(name, inputs))
        assert golden.fault(0, 1, answer.outputs) is None
        assert f"variant={good}" in predict_grpc(stack.gateway_grpc, Question(name, inputs, variant=good)).served_by


def test_a_tensorflow_variant_that_does_not_load_costs_the_others_nothing(artifacts: Path, tmp_path: Path) -> None:
    """Files that were verified and are no model here: the server ends, and starts again without them."""
    name, broken, good = "simplenn", ("tflite-fp32", "savedmodel-nograppler"), "tflite-fp16"
    base = tmp_path / "models" / name
    shutil.copytree(artifacts / "models" / name, base)
    for variant in broken:
        its = record.load(base, VARIANTS[variant])
        file = next(path for path in its.files if path.endswith((".tflite", ".pb")))
        folder = record.folder_of(base, variant)
        (folder / file).write_bytes(b"no model")
        changed = {**its.files, file: manifest.sha256(folder / file)}
        replace(its, files=changed).save(folder)
    inputs = {key: array[:1] for key, array in load_golden(tmp_path, name).inputs.items()}
    said: list[str] = []
    settings = LaunchSettings(artifacts=tmp_path, models=name, variants=",".join((*broken, good)))
    with LocalStack(settings, Ports.free(), report=said.append) as stack:
        assert "tfserving-nograppler" not in stack.servers  # it had nothing else
        for variant in broken:
            assert any(line.startswith(f"left out: {name}-{variant}: it does not load: ") for line in said), said
            with pytest.raises(PredictError, match=f"404.*variant '{variant}' .* not available: it does not load: "):
                predict_rest(stack.gateway_rest, Question(name, inputs, variant=variant))
        for variant in ("savedmodel", good, "torchscript"):
            answer = predict_grpc(stack.gateway_grpc, Question(name, inputs, variant=variant))
            assert f"variant={variant}" in answer.served_by
    print("\n".join(line for line in said if line.startswith("left out")))
