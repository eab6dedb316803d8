"""What servers use of this machine, and the fairness ledger."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadtests.campaign.containers import Container, ContainerMeter
from loadtests.campaign.gpu import GpuMeter
from loadtests.campaign.ledger import Sources, key_of, ledger_of, masked, tfserving_settings, torchserve_settings
from loadtests.campaign.parity import Parity
from loadtests.campaign.processes import ProcessMeter, listener
from loadtests.campaign.resources import Unmeasured, Watch, gpu_beside, meter_at, meters_of
from loadtests.campaign.settings import TargetSettings
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.campaign.worlds import target

# Works as long as it is asked to, a line for each answer.
WORKER = """
import sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
for line in sys.stdin:
    sum(range(int(line)))
    print("done", flush=True)
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A process that works when it is told to."""
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def work(process: subprocess.Popen[str], amount: int) -> None:
    """Lets it work, and waits until it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{amount}\n")
    process.stdin.flush()
    process.stdout.readline()


def test_a_process_is_measured_between_the_ends_of_a_cell(worker: subprocess.Popen[str]) -> None:
    """Its CPU time, memory, threads and context switches; what came before does not count."""
    work(worker, 1)
    with Watch([ProcessMeter("server", worker.pid)], GpuMeter(None, "none here")) as watch:
        work(worker, 10_000_000)
    (used,) = watch.to_json(500)["servers"]
    own = psutil.Process(worker.pid).cpu_times()
    assert 0 < used["cpu_s"] <= own.user + own.system
    assert used["cpu_s_per_1k"] == pytest.approx(2 * used["cpu_s"])
    assert (used["threads"], used["restarts"], used["status"]) == (2, 0, "measured")
    assert used["rss_peak"] > 1_000_000
    assert used["ctx_voluntary"] + used["ctx_involuntary"] > 0
    assert watch.to_json(1)["gpu"] == {"status": "not measured", "why": "none here"}


def test_a_process_that_ended_was_restarted_or_worse(worker: subprocess.Popen[str]) -> None:
    """Nothing is claimed of it."""
    meter = ProcessMeter("server", worker.pid)
    meter.begin()
    worker.kill()
    worker.wait()
    used = meter.end()
    assert (used.status, used.restarts, used.cpu_s) == ("not measured", 1, None)


def test_a_server_is_found_by_its_address() -> None:
    """Where it is a process of this machine; else the reason is told."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert listener(port) == os.getpid()
        meter = meter_at("x", f"127.0.0.1:{port}")
    assert isinstance(meter, ProcessMeter)
    assert meter.pid == os.getpid()
    elsewhere = meter_at("x", "192.0.2.1:80")
    assert isinstance(elsewhere, Unmeasured)
    assert elsewhere.end().why == "it runs on another host"
    assert isinstance(meter_at("x", "no address"), Unmeasured)


def test_the_gpus_of_this_machine_are_none_of_a_server_elsewhere() -> None:
    """Their energy would be that of the generator's machine; a server that is merely another user's is on this one."""
    gpu = GpuMeter(None, "none here")
    assert gpu_beside([Unmeasured("x", "its process cannot be seen by this user")], gpu) is gpu
    elsewhere = gpu_beside([meter_at("x", "192.0.2.1:80")], gpu)
    assert elsewhere.end() == {"status": "not measured", "why": "the server runs on another host"}


def test_behind_the_gateway_both_servers_are_measured() -> None:
    """Each by its own process; an unknown one is told."""
    meters = meters_of([target(stack="tfserving", path="gateway")], {"gateway": 7}, configured=True)
    assert [meter.name for meter in meters] == ["gateway", "tfserving"]
    assert [type(meter) for meter in meters] == [ProcessMeter, Unmeasured]


def test_the_ledger_has_what_must_be_alike_and_what_a_reader_needs(tmp_path: Path) -> None:
    """Payload, processors and settings of a process; image and digest of a container."""
    models = write_toy(tmp_path) / "models"
    (models / "toy" / "manifest.json").write_text('{"files": {"golden.npz": "abc", "torchscript/toy.mar": "def"}}')
    ours = TargetSettings(stack="torchserve")
    theirs = TargetSettings(address="x:1", protocol="predict", config="tuned", tuning_trials=20)
    one = target("one", variant="torchscript")
    two = target("two")
    box = Container("1", "tf", "tensorflow/serving:2.19", "sha256:9", dict, ("--port=1",), "0-1", 2.0, 1 << 30)
    found = ledger_of(
        [(one, ours), (two, theirs)],
        {key_of(one): Parity(1, 0, 0.0, 0.0, bytes_out=100.4, bytes_in=20.0)},
        {key_of(one): [ProcessMeter("server", os.getpid())], key_of(two): [ContainerMeter("server", box)]},
        Sources(models, tmp_path),
        [1, 16],
    )["targets"]
    like = found["toy/one"]["like"]
    assert (like["golden_answers"], like["payload_rows"], like["payload_bytes_out"]) == ("abc", "1,16", 100)
    assert like["server.cpus"]
    assert found["toy/one"]["facts"]["files"] == {"torchscript/toy.mar": "def"}
    program = found["toy/one"]["facts"]["programs"]["server"]
    assert (program["kind"], program["pid"]) == ("process", os.getpid())
    assert program["command"]
    boxed = found["toy/two"]
    assert (boxed["like"]["server.cpus"], boxed["like"]["config"]) == ("0-1", "tuned")
    assert boxed["like"]["tuning_trials"] == 20
    assert "tuning_trials" not in like
    assert (boxed["like"]["golden_answers"], boxed["facts"]["files"]) == (None, {})
    assert boxed["facts"]["programs"]["server"]["digest"] == "sha256:9"


@pytest.mark.parametrize(("bad", "golden"), [(0, "abc"), (1, None), (None, None)])
def test_of_another_ones_server_only_right_answers_tell_that_it_has_the_model(
    tmp_path: Path, bad: int | None, golden: str | None
) -> None:
    """Neither are the files of the build those that it serves, nor are its answers known where it was not asked."""
    models = write_toy(tmp_path) / "models"
    (models / "toy" / "manifest.json").write_text('{"files": {"golden.npz": "abc"}}')
    own, settings = target(), TargetSettings(address="x:1", protocol="predict")
    parities = {} if bad is None else {key_of(own): Parity(64, bad, 0.0, 0.0)}
    (entry,) = ledger_of([(own, settings)], parities, {key_of(own): []}, Sources(models, tmp_path), [1])[
        "targets"
    ].values()
    assert (entry["like"]["golden_answers"], entry["facts"]["files"]) == (golden, {})


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["serve", "--api-key=a=b", "--port=1"], ["serve", "--api-key=***", "--port=1"]),
        (["serve", "--hf-token", "-abc", "--port", "1"], ["serve", "--hf-token", "***", "--port", "1"]),
        (["env", "DB_PASSWORD=x", "serve"], ["env", "DB_PASSWORD=***", "serve"]),
        (["serve", "--disable-token-auth", "--foreground", "--client_secret"], None),
        (["java", "-Dkeystore.pass=x", "-jar", "monkey.jar"], ["java", "-Dkeystore.pass=***", "-jar", "monkey.jar"]),
        (["sh", "-c", "serve --port=1  --api_key=a b"], ["sh", "-c", "serve --port=1  --api_key=*** b"]),
        (["serve", "--password=two words", "/my models/x"], ["serve", "--password=***", "/my models/x"]),
        ([], None),
    ],
)
def test_command_lines_are_kept_without_secrets(command: list[str], shown: list[str] | None) -> None:
    """Of a process and of a container alike; what needs no mask stays as it is."""
    box = Container("1", "tf", "image", "sha256:9", dict, tuple(command))
    own = target()
    found = ledger_of(
        [(own, TargetSettings(address="x:1", protocol="predict"))],
        {},
        {key_of(own): [ContainerMeter("server", box)]},
        Sources(Path("none"), Path("none")),
        [1],
    )
    programs = found["targets"]["toy/toy"]["facts"]["programs"]
    assert programs["server"]["command"] == masked(command) == (command if shown is None else shown)


def test_workers_and_batching_are_asked_of_torchserve() -> None:
    """From its description of a model; anything else is no description."""
    described = [{"modelName": "toy", "minWorkers": 1, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 100}]
    assert torchserve_settings(described) == {
        "torchserve.minWorkers": 1,
        "torchserve.maxWorkers": 2,
        "torchserve.batchSize": 8,
        "torchserve.maxBatchDelay": 100,
    }
    for nothing in (None, [], {"code": 404}, "text", [1]):
        assert torchserve_settings(nothing) == {}


def test_threads_and_batching_of_tensorflow_serving_are_on_its_command_line() -> None:
    """What is not there has the server's default."""
    found = tfserving_settings(["tensorflow_model_server", "--enable_batching", "--tensorflow_intra_op_parallelism=4"])
    assert found["tfserving.batching"] == "true"
    assert found["tfserving.intra_op_threads"] == "4"
    assert found["tfserving.rest_threads"] == "default"


def test_the_batching_file_of_tensorflow_serving_is_read_where_it_is(tmp_path: Path) -> None:
    """One inside a container is not known."""
    file = tmp_path / "batching.txt"
    file.write_text("max_batch_size { value: 32 }\nbatch_timeout_micros{value:1500}\n")
    found = tfserving_settings(["server", "--enable_batching=true", f"--batching_parameters_file={file}"])
    assert (found["tfserving.max_batch_size"], found["tfserving.batch_timeout_micros"]) == (32, 1500)
    assert "tfserving.num_batch_threads" not in found
    gone = tfserving_settings(["server", "--batching_parameters_file=/nowhere/at/all"])
    assert "tfserving.max_batch_size" not in gone
