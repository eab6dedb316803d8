"""Archives that must not be loaded, in the real TorchServe: a corrupt one, and one for another CPU."""

from __future__ import annotations

import http.client
import json
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from models import record
from models.export import archive
from models.manifest import sha256
from models.variants import VARIANTS
from serving import probes, servers
from serving.local import LocalStack
from serving.models import find_models
from serving.settings import LaunchSettings, Ports
from tests.builders import contract
from tests.unit.serving.toys import FILES, PACKED, Doubler, manifest, write_artifacts, write_model
from tests.unit.serving.variants import write_variant

pytestmark = [pytest.mark.variants, pytest.mark.servers]

ROWS = b'{"inputs": {"x": [[1, 2]]}}'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """TorchServe with a doubler, and with its interface to register models while it runs."""
    settings = LaunchSettings(artifacts=write_artifacts(tmp_path_factory.mktemp("ts"), "doubler"), start_timeout_s=120)
    ports = Ports.free()
    server = servers.torchserve(settings, ports, find_models(settings.models_dir))
    server = replace(server, command=[*server.command, "--enable-model-api"])
    with LocalStack(settings, ports, stages=[[server]]) as running:
        yield running


def _ask(stack: LocalStack, method: str, path: str, body: bytes = b"", *, management: bool = False) -> tuple[int, str]:
    port = stack.ports.torchserve_management_port if management else stack.ports.torchserve_rest_port
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def _archive(folder: Path, version: int, model: Path, section: dict[str, object], name: str = "doubler") -> Path:
    """A .mar of the doubler whose model-config.yaml has `section`."""
    its = replace(contract(name), version=version)
    config = archive.write_config(folder / "model-config.yaml", {"variant": section}, timeout_s=20)
    with zipfile.ZipFile(folder / "next.mar", "w") as packed:
        for file in (model, *(FILES / name for name in PACKED if name != config.name), config):
            packed.write(file, file.name)
        packed.writestr("contract.json", its.to_json())
        described = manifest(its)
        described["model"]["serializedFile"] = model.name
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(described))
    return folder / "next.mar"


def _register(stack: LocalStack, path: Path) -> tuple[int, str]:
    return _ask(stack, "POST", f"/models?url=file://{path}&initial_workers=1&synchronous=true", management=True)


def _log(stack: LocalStack) -> str:
    return (stack.run_dir / "logs" / "torchserve.log").read_text()


def test_a_corrupt_archive_is_not_loaded_and_the_old_version_goes_on(stack: LocalStack, tmp_path: Path) -> None:
    """Version 2 of a model has another sha256 than its settings say: the log names the file, version 1 answers."""
    model = write_model(tmp_path, Doubler(), contract()) / "model.pt"
    section = archive.section_of("torchscript", "torchscript", [model])
    section["files"] = {"model.pt": "0" * 64}
    status, text = _register(stack, _archive(tmp_path, 2, model, section))
    assert status >= 400, text
    assert "model.pt is corrupt: its sha256 is" in _log(stack), text
    assert _ask(stack, "POST", "/predictions/doubler", ROWS) == (200, '{"outputs":{"y":[[2.0,4.0]]}}')


def test_a_package_for_another_cpu_is_refused_by_its_instruction_set(stack: LocalStack, tmp_path: Path) -> None:
    """No crash: the log names the instructions and what to do, version 1 answers."""
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as packed:
        built = {"AOTI_DEVICE_KEY": "cpu", "AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX2 AVX1024"}
        packed.writestr("model/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(built))
    section = archive.section_of("aotinductor", "aotinductor", [package])
    status, text = _register(stack, _archive(tmp_path, 3, package, section))
    assert status >= 400, text
    assert "model.pt2 was built for a CPU with AVX1024, and this one lacks avx1024" in _log(stack)
    assert _ask(stack, "POST", "/predictions/doubler", ROWS) == (200, '{"outputs":{"y":[[2.0,4.0]]}}')
    told = json.loads(_ask(stack, "GET", "/models/doubler?customized=true", management=True)[1])
    assert "TorchScript" in json.dumps(told)


def test_a_variant_that_does_not_load_costs_the_others_nothing(tmp_path: Path) -> None:
    """A package that is for this CPU and holds no library: it is left out while TorchServe starts, with its error."""
    artifacts = write_artifacts(tmp_path / "artifacts", "doubler")
    base = artifacts / "models" / "doubler"
    (base / "contract.json").write_text(contract(variants={"torchscript": "torchserve"}).to_json())
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as packed:
        packed.writestr("model/data/aotinductor/model/a.wrapper_metadata.json", '{"AOTI_DEVICE_KEY": "cpu"}')
    file = write_variant(base, "aotinductor")
    section = archive.section_of("aotinductor", "aotinductor", [package])
    file.write_bytes(_archive(tmp_path, 1, package, section, "doubler-aotinductor").read_bytes())
    variant = VARIANTS["aotinductor"]
    files = {file.name: sha256(file)}
    replace(record.load(base, variant), files=files).save(record.folder_of(base, variant.name))
    settings = LaunchSettings(artifacts=artifacts, variants="aotinductor", start_timeout_s=120)
    said: list[str] = []
    with LocalStack(settings, Ports.free(), report=said.append) as running:
        for name, status in (("torchscript", 200), ("aotinductor", 404)):
            body = json.dumps({"model": "doubler", "variant": name, "inputs": {"x": [[1, 2]]}}).encode()
            answer = probes.ask("127.0.0.1", running.ports.gateway_rest_port, "/predict", "POST", body=body)
            assert answer is not None
            assert answer.status == status, answer.body
        assert b"it ends while TorchServe loads it: RuntimeError: " in answer.body
    assert any(line.startswith("left out: doubler-aotinductor: it ends while") for line in said)
