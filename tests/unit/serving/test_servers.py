"""What the launcher runs, and the files it writes for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from gateway.settings import load
from serving import servers, tensorflow
from serving.models import BuiltModel, to_serve
from serving.processes import LaunchError
from serving.settings import LaunchSettings, Ports
from tests.builders import contract
from tests.unit.serving.variants import write_reason, write_variant

PORTS = Ports(
    **{name: 10_000 + number for number, name in enumerate(Ports.model_fields)},
)


@pytest.fixture
def settings(tmp_path: Path) -> LaunchSettings:
    """A run folder of the test's own."""
    its = LaunchSettings(artifacts=tmp_path, stop_grace_s=8)
    its.run_dir.mkdir()
    return its


@pytest.fixture
def models(tmp_path: Path) -> list[BuiltModel]:
    """Two built models, as far as files matter here."""
    built = []
    for name in ("digits", "simplenn"):
        model = BuiltModel(name, tmp_path / "models" / name)
        model.archive.parent.mkdir(parents=True)
        model.archive.write_bytes(name.encode())
        model.contract.write_text(contract(name).to_json())
        built.append(model)
    return built


@pytest.fixture
def real_tfserving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called as TensorFlow Serving is, on the PATH."""
    program = tmp_path / "bin" / tensorflow.PROGRAM
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'TensorFlow ModelServer: 2.19.1-rc0+dev.sha.1234'\necho 'TF: 2.19.0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_torchserve_gets_a_folder_of_its_own(settings: LaunchSettings, models: list[BuiltModel]) -> None:
    """Archives, temporary files and logs are in the run folder, and the ports in the environment."""
    server = servers.torchserve(settings, PORTS, models)
    folder = settings.run_dir / "torchserve"
    assert sorted(path.name for path in (folder / "model-store").iterdir()) == ["digits.mar", "simplenn.mar"]
    assert f"-Djava.io.tmpdir={folder / 'tmp'}" in server.command
    assert server.environment["TMPDIR"] == server.environment["TEMP"] == str(folder / "tmp")
    assert server.environment["LOG_LOCATION"] == str(folder / "logs")
    assert server.environment["TWINSERVE_TORCHSERVE_HOST"] == "127.0.0.1"
    assert {port.number for port in server.ports} == {
        int(value) for name, value in server.environment.items() if name.endswith("_PORT")
    }
    assert len(server.ports) == 5


def test_every_name_in_torchserves_configuration_is_given(settings: LaunchSettings, models: list[BuiltModel]) -> None:
    """TorchServe refuses to start where a name between dollar signs is not in its environment."""
    text = (servers.TORCHSERVE_FILES / "config.properties").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    wanted = {word for line in lines for word in line.split("$$")[1::2]}
    assert wanted <= set(servers.torchserve(settings, PORTS, models).environment)
    assert len(wanted) == 6


def test_a_second_start_finds_no_trace_of_the_first(settings: LaunchSettings, models: list[BuiltModel]) -> None:
    """A model that is gone is not served again."""
    servers.torchserve(settings, PORTS, models)
    (settings.run_dir / "torchserve" / "tmp" / "old").touch()
    servers.torchserve(settings, PORTS, models[:1])
    folder = settings.run_dir / "torchserve"
    assert [path.name for path in (folder / "model-store").iterdir()] == ["digits.mar"]
    assert list((folder / "tmp").iterdir()) == []


def test_sockets_stay_within_what_a_path_may_be(tmp_path: Path, models: list[BuiltModel]) -> None:
    """In a deep folder TorchServe's temporary folder is elsewhere, linked, and removed at the end."""
    settings = LaunchSettings(artifacts=tmp_path / ("deep" * 30))
    server = servers.torchserve(settings, PORTS, models)
    temporary = Path(server.environment["TMPDIR"])
    assert len(str(temporary / ".ts.sock.65535")) <= 107
    assert (settings.run_dir / "torchserve" / "tmp").resolve() == temporary
    servers.remove_temporary(settings.run_dir)
    assert not temporary.exists()
    assert not (settings.run_dir / "torchserve" / "tmp").is_symlink()


def test_without_tensorflow_serving_the_stand_in_takes_its_options(
    settings: LaunchSettings, models: list[BuiltModel]
) -> None:
    """The same options, and loopback, which the real one cannot be told."""
    server = tensorflow.tfserving(settings, PORTS, models)
    config = settings.run_dir / "tfserving" / "models.config"
    assert list(server.command)[1:3] == ["-m", "serving.tfserving.savedmodel_server"]
    assert list(server.command)[3:] == [
        f"--port={PORTS.tfserving_grpc_port}",
        f"--rest_api_port={PORTS.tfserving_rest_port}",
        f"--model_config_file={config}",
        "--max_num_load_retries=0",
        "--bind_address=127.0.0.1",
    ]
    assert "stand-in" in server.note


def test_tensorflow_serving_on_the_path_is_used_and_named(
    settings: LaunchSettings, models: list[BuiltModel], real_tfserving: Path
) -> None:
    """With the version that it tells, in the note and in the gateway's configuration."""
    server = tensorflow.tfserving(settings, PORTS, models)
    assert server.command[0] == str(real_tfserving)
    assert not any(option.startswith("--bind_address") for option in server.command)
    endpoints = servers.gateway_config(settings, PORTS, models)["endpoints"]
    assert endpoints["tf"]["server"] == "TensorFlow Serving 2.19.1-rc0+dev.sha.1234"
    assert "server" not in endpoints["ts"]


def test_models_config_quotes_names_and_paths() -> None:
    """Quotes and backslashes in a path do not end its string."""
    text = tensorflow.models_config({"m": Path('/a "b"/c\\d/savedmodel')})
    assert text == (
        "model_config_list {\n  config {\n"
        '    name: "m"\n    base_path: "/a \\"b\\"/c\\\\d/savedmodel"\n    model_platform: "tensorflow"\n'
        "  }\n}\n"
    )


def test_the_gateways_configuration_is_one_that_it_reads(settings: LaunchSettings, models: list[BuiltModel]) -> None:
    """Four endpoints, each model on all of them, the preferred ones first, and time to drain."""
    server = servers.gateway(settings, PORTS, models)
    config = settings.run_dir / "gateway.yaml"
    assert list(server.command)[1:] == ["-m", "gateway", "--config", str(config)]
    read = load(config)
    assert {name: (end.stack, end.transport) for name, end in read.endpoints.items()} == {
        "ts": ("torchserve", "rest"),
        "tf": ("tfserving", "grpc"),
        "ts-grpc": ("torchserve", "grpc"),
        "tf-rest": ("tfserving", "rest"),
    }
    assert [target.endpoint for target in read.models["digits"].targets] == ["ts", "tf", "ts-grpc", "tf-rest"]
    assert read.models["simplenn"].contract == models[1].contract
    assert read.server.rest_port == PORTS.gateway_rest_port
    assert read.server.drain_seconds < settings.stop_grace_s
    assert yaml.safe_load(config.read_text())["server"]["host"] == "127.0.0.1"


def test_the_gateway_is_asked_about_every_model_on_every_endpoint(models: list[BuiltModel]) -> None:
    """One row of zeros, as the contract describes the input."""
    bodies = servers.questions(models, ["ts", "tf"])
    assert len(bodies) == 4
    assert json.loads(bodies["model 'digits' through endpoint 'tf'"]) == {
        "model": "digits",
        "endpoint": "tf",
        "inputs": {"x": [[0, 0]]},
    }


def test_an_input_with_bounds_is_asked_about_with_its_greatest_value(models: list[BuiltModel]) -> None:
    """A mask of zeros leaves nothing to answer for."""
    contract = json.loads(models[0].contract.read_text())
    contract["inputs"][0]["bounds"] = {"least": 0, "most": 1}
    models[0].contract.write_text(json.dumps(contract))
    (body,) = servers.questions(models[:1], ["tf"]).values()
    assert json.loads(body)["inputs"] == {"x": [[1, 1]]}


def test_without_models_nothing_is_planned(settings: LaunchSettings) -> None:
    """There is nothing to be ready."""
    with pytest.raises(LaunchError, match="`twinserve models build simplenn digits --variants default` builds"):
        servers.all_servers(settings, PORTS, [])


def test_the_model_servers_start_before_the_gateway(settings: LaunchSettings, models: list[BuiltModel]) -> None:
    """Two stages."""
    stages = servers.all_servers(settings, PORTS, models)
    assert [[server.name for server in stage] for stage in stages] == [["torchserve", "tfserving"], ["gateway"]]


@pytest.fixture
def varied(models: list[BuiltModel]) -> list[BuiltModel]:
    """Both models with all variants to be served: of digits there are some, of simplenn none."""
    for name in ("onnx", "int8-dynamic", "savedmodel-nograppler", "xla", "tflite-int8"):
        write_variant(models[0].folder, name)
    write_reason(models[0].folder, "tensorrt", "needs an NVIDIA GPU")
    return list(to_serve(models, "", "all"))


def test_variants_stand_beside_the_models_on_their_servers(settings: LaunchSettings, varied: list[BuiltModel]) -> None:
    """Each under a name of its own; one needs a server without Grappler."""
    (first, (gateway,)) = servers.all_servers(settings, PORTS, varied)
    torchserve, optimised, plain = first
    store = settings.run_dir / "torchserve" / "model-store"
    assert sorted(path.name for path in store.iterdir()) == [
        *("digits-int8-dynamic.mar", "digits-onnx.mar", "digits.mar", "simplenn.mar")
    ]
    served = (settings.run_dir / "tfserving" / "models.config").read_text()
    assert [line.split('"')[1] for line in served.splitlines() if "name:" in line] == [
        *("digits", "digits-xla", "digits-tflite-int8", "simplenn")
    ]
    assert str(varied[0].folder / "variants" / "xla") in served
    assert "--prefer_tflite_model=true" in optimised.command
    assert plain.name == "tfserving-nograppler"
    assert f"--rest_api_port={PORTS.tfserving_nograppler_rest_port}" in plain.command
    assert f"--platform_config_file={tensorflow.FILES / 'nograppler.config'}" in plain.command
    assert "digits-savedmodel-nograppler" in (settings.run_dir / "tfserving-nograppler" / "models.config").read_text()
    assert torchserve.allowance_s > 0
    assert gateway.name == "gateway"


def test_the_gateway_answers_with_variants_only_by_name(settings: LaunchSettings, varied: list[BuiltModel]) -> None:
    """Whoever names none is answered as without them; what cannot be had has its reason."""
    servers.gateway(settings, PORTS, varied)
    read = load(settings.run_dir / "gateway.yaml")
    digits, simplenn = read.models["digits"], read.models["simplenn"]
    assert [target.endpoint for target in digits.targets if not target.by_name] == ["ts", "tf", "ts-grpc", "tf-rest"]
    assert [(target.endpoint, target.variant, target.model) for target in digits.targets if target.by_name] == [
        ("ts", "onnx", "digits-onnx"),
        ("ts-grpc", "onnx", "digits-onnx"),
        ("ts", "int8-dynamic", "digits-int8-dynamic"),
        ("ts-grpc", "int8-dynamic", "digits-int8-dynamic"),
        ("tf-nograppler", "savedmodel-nograppler", "digits-savedmodel-nograppler"),
        ("tf-nograppler-rest", "savedmodel-nograppler", "digits-savedmodel-nograppler"),
        ("tf", "xla", "digits-xla"),
        ("tf-rest", "xla", "digits-xla"),
        ("tf", "tflite-int8", "digits-tflite-int8"),
        ("tf-rest", "tflite-int8", "digits-tflite-int8"),
    ]
    # The rows of a run share a scale there: strangers' must not travel together.
    assert {target.variant for target in digits.targets if not target.batching} == {"int8-dynamic"}
    assert digits.unavailable["tensorrt"] == "needs an NVIDIA GPU"
    assert not any(target.by_name for target in simplenn.targets)
    assert all(endpoint.models == () for endpoint in read.endpoints.values())
    questions = servers.questions(varied, read.endpoints)
    assert len(questions) == 4 + 10 + 4
    asked = json.loads(questions["model 'digits' as xla through endpoint 'tf'"])
    assert (asked["endpoint"], asked["variant"]) == ("tf", "xla")


def test_the_gateway_starts_without_what_did_not_load(settings: LaunchSettings, varied: list[BuiltModel]) -> None:
    """Known only when it starts: its configuration is written again then."""
    dropped: dict[str, str] = {}
    server = servers.gateway(settings, PORTS, varied, dropped)
    dropped["digits-onnx"] = "it ends while TorchServe loads it"
    server.prepare()
    digits = load(settings.run_dir / "gateway.yaml").models["digits"]
    assert "onnx" not in {target.variant for target in digits.targets}
    assert digits.unavailable["onnx"] == "it ends while TorchServe loads it"
    assert digits.unavailable["tensorrt"] == "needs an NVIDIA GPU"


def test_a_server_without_models_is_not_started(settings: LaunchSettings, models: list[BuiltModel]) -> None:
    """A model that only TorchServe has needs no TensorFlow server, nor has the gateway an endpoint for one."""
    models[0].contract.write_text(contract("digits", variants={"torchscript": "torchserve"}).to_json())
    stages = servers.all_servers(settings, PORTS, models[:1])
    assert [[server.name for server in stage] for stage in stages] == [["torchserve"], ["gateway"]]
    assert list(load(settings.run_dir / "gateway.yaml").endpoints) == ["ts", "ts-grpc"]
