"""TensorFlow's variants that do not load, by what the log of the server that they ended says."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.variants import VARIANTS
from serving import tensorflow
from serving.models import BuiltModel, BuiltVariant
from serving.processes import Server, ServerDied
from serving.settings import LaunchSettings, Ports

STAND_IN = """2026-11-26 04:00:00,000 INFO model m version 1: available after 0.10 s, from /m/savedmodel/1
2026-11-26 04:00:00,100 ERROR model m-xla version 1: loading failed: INVALID_ARGUMENT: no graph
2026-11-26 04:00:00,200 ERROR Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: \
{{{name: m-xla version: 1} due to error: INVALID_ARGUMENT: no graph {node}}, }
"""
# TensorFlow Serving's words, of two models, the second in two lines.
REAL = """I tensorflow_serving/core/loader_harness.cc:95] Successfully loaded servable version {name: m version: 1}
Failed to start server. Error: Unknown: 2 servable(s) did not become available: \
{{{name: m-tflite-fp32 version: 1} due to error: Invalid argument: Mmap of '/x' failed}, \
{{name: m-xla version: 1} due to error: Internal: no
kernel}, }
"""


@dataclass
class World:
    """A model with three variants on TensorFlow's servers, and what is told of those that are dropped."""

    settings: LaunchSettings
    folder: Path
    why: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def models(self) -> list[BuiltModel]:
        """As they are built."""
        names = ("savedmodel-nograppler", "xla", "tflite-fp32")
        variants = (BuiltVariant(each, "tfserving", f"m-{each}", self.folder / each) for each in names)
        return [BuiltModel("m", self.folder, tuple(variants))]

    def server(self, *, plain: bool = False) -> Server:
        """The server that optimises, or with `plain` the other one."""
        allowed = frozenset(variant.served_name("m") for variant in VARIANTS.values() if not variant.default)
        drops = tensorflow.Drops(allowed, self.why, self.said.append)
        made = tensorflow.tfserving_nograppler if plain else tensorflow.tfserving
        return made(self.settings, Ports(), self.models, drops)

    def again(self, server: Server, log: str, code: int = 255) -> Server | None:
        """What is started in its place, where it ended like that."""
        path = self.settings.run_dir / "logs" / f"{server.name}.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(log)
        assert server.again is not None
        return server.again(ServerDied(server.name, code, path, ()))

    def served(self) -> list[str]:
        """What the last server that was made has."""
        text = (self.settings.run_dir / "tfserving" / "models.config").read_text()
        return [line.split('"')[1] for line in text.splitlines() if "name:" in line]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """In a run folder of the test's own."""
    return World(LaunchSettings(artifacts=tmp_path), tmp_path / "models" / "m")


def test_a_variant_that_ends_the_server_is_dropped_with_its_error(world: World) -> None:
    """The server is made again without it, and the log that told why is kept."""
    server = world.server()
    assert world.served() == ["m", "m-xla", "m-tflite-fp32"]
    left = world.again(server, STAND_IN)
    assert left is not None
    assert world.served() == ["m", "m-tflite-fp32"]
    assert "--prefer_tflite_model=true" in left.command
    reason = "it does not load: INVALID_ARGUMENT: no graph {node}"
    assert world.why == {"m-xla": reason}
    kept = world.settings.run_dir / "logs" / "tfserving-before.log"
    assert world.said == [f"left out: m-xla: {reason}; more is in {kept}"]
    assert kept.read_text() == STAND_IN


def test_several_may_end_it_at_once_and_another_one_later(world: World) -> None:
    """TensorFlow Serving names all that failed; what is left can fail as well."""
    assert world.again(world.server(), REAL) is not None
    assert world.served() == ["m"]
    assert world.why == {
        "m-tflite-fp32": "it does not load: Invalid argument: Mmap of '/x' failed",
        "m-xla": "it does not load: Internal: no kernel",
    }


def test_a_server_with_nothing_left_is_not_started_again(world: World) -> None:
    """As the one without Grappler, which has variants only."""
    log = STAND_IN.replace("m-xla", "m-savedmodel-nograppler")
    assert world.again(world.server(plain=True), log) is None
    assert list(world.why) == ["m-savedmodel-nograppler"]


def test_a_crash_drops_what_was_not_loaded_yet(world: World) -> None:
    """It names nothing: each of those that it was loading may be the cause, and says so."""
    assert world.again(world.server(), STAND_IN.splitlines()[0], -signal.SIGSEGV) is not None
    assert world.served() == ["m"]
    reason = "TensorFlow's server was ended by SIGSEGV while it loaded it, with 1 others"
    assert world.why == {"m-tflite-fp32": reason, "m-xla": reason}


@pytest.mark.parametrize(
    ("log", "code"),
    [
        (STAND_IN.replace("m-xla", "m"), 255),
        ("Failed to start server. Error: UNKNOWN: could not start gRPC server", 255),
        (STAND_IN.splitlines()[0].replace("m version", "m-xla version"), -signal.SIGKILL),
    ],
    ids=["a default variant", "no model at all", "a crash after the variants"],
)
def test_other_ends_end_the_start(world: World, log: str, code: int) -> None:
    """Nothing is dropped for what is not a variant's fault."""
    server = world.server()
    if code < 0:
        log += log.replace("m-xla", "m-tflite-fp32").join("\n\n")
    with pytest.raises(ServerDied, match="tfserving"):
        world.again(server, log, code)
    assert (world.why, world.said) == ({}, [])
