"""`docker-compose.yml`, built and run for real: `make test-docker`. Skipped, with its reason, where no engine is."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from loadtests.golden import load_golden
from serving.docker import compose_command
from serving.observability.dashboards import queries, rendered
from serving.processes import LaunchError
from tests.integration.compose import PROJECT, ROOT, STAND_IN, Composed, composed
from twinserve.client import Question, predict_grpc, predict_rest

pytestmark = pytest.mark.docker

# Every port that either server, the gateway or an exporter listens on, and their neighbours.
SCANNED = (22, 80, 443, 7070, 7071, 8000, 8001, 8009, 8080, 8081, 8082, 8500, 8501, 9090, 9256)
SCANNER = """
import json, socket, sys
found = {}
for host in sys.argv[1].split(","):
    found[host] = []
    for port in map(int, sys.argv[2].split(",")):
        with socket.socket() as probe:
            probe.settimeout(0.3)
            if probe.connect_ex((host, port)) == 0:
                found[host].append(port)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def project(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The compose project, up for the whole module."""
    with composed(artifacts, tmp_path_factory.mktemp("compose")) as running:
        yield running


def containers() -> dict[str, Any]:
    with closing(docker.from_env()) as client:
        found = client.containers.list(all=True, filters={"label": f"com.docker.compose.project={PROJECT}"})
        return {container.labels["com.docker.compose.service"]: container.attrs for container in found}


def question(model: str, stack: str = "") -> Question:
    golden = load_golden(ROOT / "artifacts", model)
    return Question(model, {name: array[:8] for name, array in golden.inputs.items()}, stack=stack or None)


def until(condition: Any, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if condition():
                return
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@pytest.mark.parametrize("model", ["simplenn", "digits"])
@pytest.mark.parametrize("stack", ["torchserve", "tfserving"])
@pytest.mark.parametrize("door", ["rest", "grpc"])
def test_both_stacks_answer_in_containers(project: Composed, model: str, stack: str, door: str) -> None:
    """The golden answers come from both stacks over both doors, and name the server that gave them."""
    asked = question(model, stack)
    answer = predict_rest(project.rest, asked) if door == "rest" else predict_grpc(project.grpc, asked)
    assert load_golden(ROOT / "artifacts", model).fault(0, 8, answer.outputs) is None
    server = "TorchServe 0.12.0" if stack == "torchserve" else "savedmodel-server 1.0 (stand-in)"
    assert f'server="{server}"' in answer.served_by


def test_only_what_is_for_people_and_clients_is_published_and_on_loopback(project: Composed) -> None:
    """The gateway and what is looked at; no model server, no exporter."""
    published = {
        service: [
            binding["HostIp"] for bindings in attrs["NetworkSettings"]["Ports"].values() for binding in bindings or ()
        ]
        for service, attrs in containers().items()
    }
    assert {service for service, addresses in published.items() if addresses} <= {"gateway", "prometheus", "grafana"}
    assert {address for addresses in published.values() for address in addresses} == {"127.0.0.1"}


def test_every_container_is_hardened(project: Composed) -> None:
    """Read-only, no capabilities, no new privileges, no root, bounded, no socket of Docker's; logs rotate."""
    for service, attrs in containers().items():
        host, config = attrs["HostConfig"], attrs["Config"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), service
        assert config["User"].partition(":")[0] not in ("", "0", "root"), service
        assert host["Memory"] > 0, service
        assert host["NanoCpus"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert host["LogConfig"]["Config"]["max-size"], service
        sources = [mount.get("Source", "") for mount in attrs["Mounts"]]
        assert not any("docker.sock" in source for source in sources), service
        writable = [mount["Destination"] for mount in attrs["Mounts"] if mount["RW"]]
        assert set(writable) <= {"/models", "/prometheus", "/var/lib/grafana"}, service
        if "/models" in writable:
            assert service == "models"


def test_what_is_served_and_watched_says_that_it_is_healthy(project: Composed) -> None:
    """And Prometheus reads all of them: the gateway, both servers' own metrics, and their processes'."""
    healths = {
        service: attrs["State"]["Health"]["Status"]
        for service, attrs in containers().items()
        if "Health" in attrs["State"]
    }
    assert set(healths) >= {"gateway", "torchserve", "tfserving"}
    assert set(healths.values()) == {"healthy"}
    if "prometheus" in project.services:
        assert "prometheus" in healths
        jobs = ["gateway", "processes", "processes", "processes", "tfserving", "torchserve"]
        until(
            lambda: sorted(sample["metric"]["job"] for sample in asked_of_prometheus(project, "up == 1")) == jobs, "up"
        )


def test_compose_reads_the_files_for_gpus_and_for_load_too() -> None:
    """Their form; what is done with a GPU is not tested here."""
    try:
        compose = compose_command()
    except LaunchError as exc:
        pytest.skip(str(exc))
    files = ["-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml", "--profile", "load"]
    done = subprocess.run([*compose, *files, "config"], cwd=ROOT, capture_output=True, text=True, check=True)
    services = yaml.safe_load(done.stdout)["services"]
    assert {"dcgm-exporter", "locust-master", "locust-worker"} <= services.keys()
    for name in ("torchserve", "tfserving"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert "gpu" in services[name]["image"]


def test_models_that_were_changed_are_told_before_any_server_starts(
    project: Composed, artifacts: Path, tmp_path: Path
) -> None:
    """By their sha256: `models` ends with the file's name, and nothing that depends on it starts."""
    folder = tmp_path / "models" / "digits"
    shutil.copytree(artifacts / "models" / "digits", folder)
    changed = next(folder.glob("torchscript/*.mar"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    mounted = {str(folder.parent): {"bind": "/models", "mode": "ro"}}
    with closing(docker.from_env()) as client, pytest.raises(docker.errors.ContainerError) as caught:
        # Root, since nobody else may enter a test's folder.
        client.containers.run("twinserve/models", volumes=mounted, user="0", remove=True, stderr=True)
    assert caught.value.exit_status == 1
    assert changed.name in caught.value.stderr.decode()


def test_a_client_reaches_the_gateways_doors_and_nothing_else(project: Composed) -> None:
    """A scan from the clients' network: no model server, no management port, no operator's port."""
    hosts = {
        network["IPAddress"]: service
        for service, attrs in containers().items()
        for network in attrs["NetworkSettings"]["Networks"].values()
        if network["IPAddress"]
    }
    with closing(docker.from_env()) as client:
        output = client.containers.run(
            STAND_IN,
            ["-c", SCANNER, ",".join(hosts), ",".join(map(str, SCANNED))],
            entrypoint=["python"],
            network=f"{PROJECT}_clients",
            remove=True,
        )
    found = {(hosts[host], port) for host, ports in json.loads(output).items() for port in ports}
    assert found <= {("gateway", 8000), ("gateway", 8001), ("prometheus", 9090), ("grafana", 3000)}
    assert ("gateway", 8000) in found


class Load:
    """Clients that ask one model over and over, each outcome counted, until they are told to stop."""

    def __init__(self, project: Composed, model: str, clients: int = 4) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stop = threading.Event()
        self._address, self._question = project.rest, question(model)
        self._threads = [threading.Thread(target=self._ask, name=f"client-{number}") for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = predict_rest(self._address, self._question)
                self.outcomes["torchserve" if "stack=torchserve" in answer.served_by else "tfserving"] += 1
            except Exception as exc:
                self.outcomes[str(exc)[:120]] += 1
                time.sleep(0.05)


def asked_of_prometheus(project: Composed, expression: str) -> list[Any]:
    url = f"{project.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        document = json.load(reply)
    return [sample for sample in document["data"]["result"] if sample["value"][1] != "NaN"]


def test_the_gateways_own_layers_are_small(project: Composed) -> None:
    """Its dependencies and itself, above the public base image."""
    with closing(docker.from_env()) as client:
        base, image = (client.images.get(name).attrs for name in ("python:3.11-slim-bookworm", "twinserve/gateway"))
    assert image["RootFS"]["Layers"][: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]
    assert image["Size"] - base["Size"] < 200e6


@pytest.mark.parametrize(("killed", "other"), [("tfserving", "torchserve"), ("torchserve", "tfserving")])
def test_a_killed_server_is_survived_and_every_panel_shows_data(project: Composed, killed: str, other: str) -> None:
    """One is killed under load: the other stack goes on, the one comes back, and it is all to be seen."""
    if "prometheus" not in project.services:
        pytest.skip("Prometheus' image is neither here nor to be pulled")
    with Load(project, "digits") as digits, Load(project, "simplenn", 2):
        until(lambda: digits.outcomes[killed] > 50, f"answers of {killed}")
        project.stack.kill(killed)
        before = digits.outcomes[other]
        until(lambda: digits.outcomes[other] > before + 50, f"answers of {other}")
        # `restart: unless-stopped` does not apply to what an operator killed; he starts it again.
        project.stack.start(killed)
        back = digits.outcomes[killed]
        until(lambda: digits.outcomes[killed] > back + 50, f"answers of {killed} again", 120)
        watched = 'count(up{job="processes"} == 1) == 3'
        until(lambda: asked_of_prometheus(project, watched), "processor time and memory of all")
        missing = [("", "")]

        def all_shown() -> bool:
            nonlocal missing
            missing = [
                (title, expression)
                for text in rendered().values()
                for title, expression in queries(text)
                if not asked_of_prometheus(project, expression)
            ]
            return not missing

        try:
            until(all_shown, "data for every panel", 60)
        except AssertionError:
            raise AssertionError(f"no data for {missing}") from None
    total = digits.outcomes.total()
    answered = digits.outcomes["torchserve"] + digits.outcomes["tfserving"]
    # What was in flight when it died is lost, never sent again: at most what the slots of one endpoint hold.
    assert total - answered <= 8, digits.outcomes


@pytest.mark.parametrize("service", ["torchserve", "tfserving"])
def test_a_server_whose_processes_die_is_started_again_and_gets_traffic(project: Composed, service: str) -> None:
    """As after the OOM killer or a crash, which nobody asked for: nothing has to be done."""
    before = containers()[service]["RestartCount"]
    with closing(docker.from_env()) as client:
        container = client.containers.get(containers()[service]["Id"])
        # Every process but the container's first, which ends with the server that it waits for.
        container.exec_run(["bash", "-c", "kill -9 -1"])
    until(lambda: containers()[service]["RestartCount"] > before, f"a restart of {service}")
    until(lambda: predict_rest(project.rest, question("digits", service)), f"an answer of {service}", 120)


@pytest.mark.parametrize("service", ["torchserve", "tfserving"])
def test_a_server_that_is_stopped_ends_by_itself(project: Composed, service: str) -> None:
    """Within its grace period: Docker had to kill nothing."""
    project.stack.stop(service)
    state = containers()[service]["State"]
    project.stack.start(service)
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_stopping_under_load_loses_no_request_that_was_taken(project: Composed) -> None:
    """Last, since `docker-compose down` takes everything down: who was connected gets an answer, and a whole one."""
    # At the container itself: Docker's proxy takes connections for which nobody is there any more.
    address = containers()["gateway"]["NetworkSettings"]["Networks"][f"{PROJECT}_clients"]["IPAddress"]
    body = json.dumps({"inputs": {name: array.tolist() for name, array in question("digits").inputs.items()}})
    ended: Counter[str] = Counter()

    def ask_until_nobody_is_there() -> None:
        while True:
            connection = HTTPConnection(address, 8000, timeout=5)
            with closing(connection):
                try:
                    connection.connect()
                except OSError:
                    return
                try:
                    connection.request("POST", "/predict/digits", body, {"content-type": "application/json"})
                    reply = connection.getresponse()
                    json.loads(reply.read())
                    ended[str(reply.status)] += 1
                except Exception as exc:
                    ended[repr(exc)] += 1

    clients = [threading.Thread(target=ask_until_nobody_is_there) for _ in range(4)]
    for client in clients:
        client.start()
    until(lambda: ended["200"] > 50, "answers")
    project.stack.down()
    for client in clients:
        client.join()
    # 503 is the word of a gateway that drains.
    assert set(ended) <= {"200", "503"}, ended
