"""`gateway check`: a configuration is validated without being started, by itself or with its servers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.builders import contract
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import double, echo


def written(folder: Path, text: str) -> str:
    """The path of a configuration, beside the contract of `double`."""
    model = double()
    made = contract("double", inputs=model.inputs, outputs=model.outputs)
    (folder / "double.json").write_text(made.to_json())
    path = folder / "gateway.yaml"
    path.write_text(text)
    return str(path)


CONFIG = """
endpoints:
  ts: {{stack: torchserve, rest: "{ts}", management: "{management}"}}
  tf: {{stack: tfserving, transport: grpc, grpc: "{tf}", models: [counter]}}
  oip: {{stack: oip, rest: "{oip}"}}
models:
  double: {{contract: double.json, targets: [{{endpoint: ts}}, {{endpoint: tf, version: 1}}]}}
  renamed: {{targets: [{{endpoint: tf, model: double}}]}}
"""
NOWHERE = {"ts": "http://ts:1", "management": "http://ts:2", "tf": "tf:3", "oip": "http://oip:4"}


def test_a_usable_configuration_is_told_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Endpoints, models, contracts; nothing is connected to, and the status is 0."""
    assert main(["check", written(tmp_path, CONFIG.format(**NOWHERE))]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "endpoints",
        "  ts: torchserve over rest, http://ts:1",
        "  tf: tfserving over grpc, tf:3",
        "  oip: oip over rest, http://oip:4",
        "models",
        f"  double: on ts, tf version 1; contract {tmp_path}/double.json, version 1",
        "  renamed: on tf as double; contract made of the server's own metadata",
        "  and every other that these list: ts, oip",
        "  and from tf: counter",
        "no problem found; --connect asks the servers too",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("endpoints: {a: {stack: triton}, b: {stack: noop, slots: 0}}", ["endpoints.a.stack", "endpoints.b.slots"]),
        (
            "endpoints: {a: {stack: noop}}\n"
            "models: {x: {contract: no.json, targets: [{endpoint: a}]}, y: {contract: double.json, targets: "
            "[{endpoint: a}]}}",
            ["models.x.contract: ", "no.json: No such file", "models.y.contract: ", "is the contract of 'double'"],
        ),
        (
            "endpoints: {a: {stack: noop}}\nmodels: {x: {targets: [{endpoint: b}]}}",
            ["unknown endpoint 'b'; there are a"],
        ),
        (
            'endpoints: {a: {stack: torchserve, rest: "http://h:1", management: "http://h:2", payload: json}}\n'
            "models: {x: {targets: [{endpoint: a}]}}",
            ["models.x: target 'a': payload json needs the model's contract; write `contract`"],
        ),
    ],
)
def test_every_problem_is_told_with_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: list[str]
) -> None:
    """Not only the first, and the status is 1."""
    assert main(["check", written(tmp_path, text)]) == 1
    found = capsys.readouterr().err
    assert [part for part in expected if part not in found] == []


@dataclass
class Servers:
    """Three fake servers, and the addresses of a configuration."""

    torchserve: FakeTorchServe
    tfserving: FakeTfServing
    oip: FakeOip

    def addresses(self) -> dict[str, str]:
        return {
            "ts": self.torchserve.rest_url,
            "management": self.torchserve.management_url,
            "tf": self.tfserving.grpc_address,
            "oip": self.oip.rest_url,
        }


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    """Of which TorchServe has a model that no contract is known of."""
    async with AsyncExitStack() as stack:
        yield Servers(
            await stack.enter_async_context(FakeTorchServe(double(), double("unknown"))),
            await stack.enter_async_context(FakeTfServing(double(), echo("INT64", "counter"))),
            await stack.enter_async_context(FakeOip(echo("FP32", "found"))),
        )


async def test_connecting_tells_what_the_servers_are_and_have(
    servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each route with its versions, and of the model without a contract what to write."""
    file = written(tmp_path, CONFIG.format(**servers.addresses()))
    assert await asyncio.to_thread(main, ["check", file, "--connect"]) == 0
    found = capsys.readouterr().out
    _, _, told = found.partition("servers\n")
    assert told.splitlines()[:13] == [
        "  ts: TorchServe 0.12.0",
        "  tf: savedmodel-server 1.0 (stand-in)",
        "  oip: fakeserver 2.1",
        "routes",
        "  double: own contract, signatures serving_default",
        "    ts: ready, versions 1",
        "    tf: ready, versions 1",
        "  renamed: contract of tf, signatures serving_default",
        "    tf: ready, versions 1",
        "  counter: contract of tf, signatures serving_default",
        "    tf: ready, versions 1",
        "  found: contract of oip, signatures serving_default",
        "    oip: ready, versions 1",
    ]
    assert (
        "  unknown: cannot be answered: endpoint 'ts' does not describe its tensors. Write them to unknown.json" in told
    )
    assert "also needs a contract, and `payload` on the target: see docs/torchserve-handlers.md" in told
    assert told.endswith("no problem found\n")


async def test_connecting_tells_what_disagrees_and_what_is_silent(
    servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides of a mismatch are named, with the model's path; the status is 1."""
    servers.tfserving.models["double"] = echo("FP64", "double")
    await servers.oip.close()
    file = written(tmp_path, CONFIG.format(**servers.addresses()))
    assert await asyncio.to_thread(main, ["check", file, "--connect"]) == 1
    problems = capsys.readouterr().err
    assert (
        "problem: models.double: endpoint 'tf' is mismatch: disagrees with the contract: input 'x': the contract has "
        "FP32 [-1, 2], the server FP64 [-1, 2]"
    ) in problems
    assert "problem: endpoints.oip: does not answer: " in problems


async def test_servers_of_the_command_line_are_checked_without_a_file(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the gateway would take them."""
    arguments = ["--oip", f"grpc://{servers.oip.grpc_address}", "--tfserving", servers.tfserving.grpc_address]
    assert await asyncio.to_thread(main, ["check", *arguments, "--connect"]) == 0
    told = capsys.readouterr().out
    assert "  found: contract of oip" in told
    assert "    it has no way to list its models" in told


def test_a_server_that_is_not_there_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--connect` nobody would know."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert main(["check", "--oip", f"http://{address}"]) == 0
        assert main(["check", "--oip", f"http://{address}", "--connect"]) == 1
    assert "endpoints.oip: does not answer: cannot connect" in capsys.readouterr().err
