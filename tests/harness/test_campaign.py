"""Campaigns as a user runs them, on an oracle: the command, its folder, and what is left when it is cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtests.campaign.folder import RunFolder
from loadtests.raw import read_rows
from loadtests.store import Runs
from tests.harness.laws import Fixed, Wrong
from tests.harness.measuring import write_golden
from tests.harness.oracles import oracle

pytestmark = pytest.mark.harness
DELAY_S = 0.02
PATIENCE_S = 60.0


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with golden data; runs are left in it too."""
    write_golden(tmp_path / "artifacts")
    return tmp_path


@pytest.fixture
def fixed() -> Iterator[str]:
    """An oracle that answers rightly after 20 ms."""
    with oracle(Fixed(DELAY_S)) as address:
        yield address


def written(world: Path, address: str, **changes: Any) -> Path:
    """A campaign of short cells: they are INVALID for that alone, and their figures are there."""
    document = {
        "tier": "quick",
        "seed": 3,
        "rounds": 2,
        "models": ["oracle"],
        "cool_down_s": 0,
        "scenarios": [{"name": "s", "kind": "server", "rate": 100, "duration_s": 2, "warm_up_s": 0.5}],
        "targets": [{"name": "fixed", "protocol": "predict", "address": address, "model": "oracle"}],
        **changes,
    }
    (world / "c.yaml").write_text(json.dumps(document))
    return world / "c.yaml"


def started(world: Path, *words: str) -> subprocess.Popen[str]:
    """`twinserve bench WORDS`, its output in a file."""
    command = [sys.executable, "-m", "twinserve", "bench", *words, "--runs", str(world / "runs")]
    if words[0] == "run":
        command += ["--artifacts", str(world / "artifacts")]
    with (world / "output").open("w") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=world, env=_environment(world)
        )


def _environment(world: Path) -> dict[str, str]:
    # A lock of the test's own: whoever else measures on this machine is not its concern.
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "TMPDIR": str(world), "PYTHONPATH": root}


def ended(process: subprocess.Popen[str], world: Path) -> tuple[int, str]:
    """The exit code and the output of a command."""
    try:
        code = process.wait(3 * PATIENCE_S)
    finally:
        process.kill()
    return code, (world / "output").read_text()


def bench(world: Path, *words: str) -> tuple[int, str]:
    """Runs a command to its end."""
    return ended(started(world, *words), world)


def only_run(world: Path) -> RunFolder:
    """The one run that there is."""
    (path,) = (world / "runs").iterdir()
    return RunFolder(path)


def measuring(process: subprocess.Popen[str], world: Path, cells: int) -> RunFolder:
    """Waits until so many cells are measured and the next one is under way."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        runs = list((world / "runs").glob("*/state.json"))
        if runs:
            folder = RunFolder(runs[0].parent)
            if len(folder.cells()) == cells and list(folder.path.glob("raw/*/*.arrow")):
                return folder
        time.sleep(0.05)
    raise AssertionError((world / "output").read_text())


def test_every_figure_of_a_campaign_can_be_counted_again_from_the_raw_data(world: Path, fixed: str) -> None:
    """The delay is what the law says, the counts are those of plain SQL, and the report is made of the folder alone."""
    code, output = bench(world, "run", str(written(world, fixed, rounds=1)))
    folder = only_run(world)
    lines = folder.cells()
    assert code == 3, output
    assert "about " in output.splitlines()[0]
    assert "INVALID" in output
    assert {line["target"] for line in lines} == {"fixed", "fixed (A/A)"}
    assert all(any("measured time" in reason for reason in line["reasons"]) for line in lines)
    with Runs(world / "runs") as runs:
        counted = runs.sql(
            "SELECT round, cell, count(*), count(*) FILTER (outcome = 'ok'), "
            "quantile_disc((t_end - t_snd) * 1e3, 0.5) FROM requests WHERE measured GROUP BY round, cell"
        ).rows
    by_cell = {(line["round"], line["cell"]): line for line in lines}
    assert len(counted) == len(by_cell) == 2
    for number, slug, scheduled, right, median in counted:
        line = by_cell[number, slug]
        assert (scheduled, right) == (line["scheduled"], line["outcomes"]["ok"])
        assert median >= DELAY_S * 1e3
        # Only what suffices for a percentile is printed; then it is the one of the rows.
        assert line["S"]["p50"] is None or line["S"]["p50"] == pytest.approx(median, rel=1e-6)
    (folder.path / "report.html").unlink()
    assert bench(world, "report", folder.id)[0] == 0
    # A server that answers at once was measured beside them, and is in no figure of theirs.
    null = read_rows(folder.null / "null.0.arrow")
    assert set(null["outcome"].to_pylist()) == {"ok"}
    assert null.filter(null["measured"]).num_rows > 459
    assert "A server that answers at once, asked by this generator" in (folder.path / "report.html").read_text()


def test_ctrl_c_finishes_the_round_and_a_resumed_run_does_the_rest(world: Path, fixed: str) -> None:
    """Every cell is measured once."""
    process = started(world, "run", str(written(world, fixed)))
    folder = measuring(process, world, 1)
    process.send_signal(signal.SIGINT)
    code, output = ended(process, world)
    assert code == 3, output
    assert "finishing this round" in output
    assert "--resume" in output
    assert ([line["round"] for line in folder.cells()], folder.state().status) == ([0, 0], "interrupted")
    assert (folder.path / "report.html").exists()
    assert bench(world, "run", "--resume", folder.id)[0] == 3
    assert ([line["round"] for line in folder.cells()], folder.state().status) == ([0, 0, 1, 1], "complete")


def test_a_killed_run_goes_on_and_loses_no_cell(world: Path, fixed: str) -> None:
    """What was measured before the kill stays; no generator outlives it; the lock stops nobody."""
    process = started(world, "run", str(written(world, fixed, rounds=1)))
    folder = measuring(process, world, 1)
    generators = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(generators, timeout=PATIENCE_S)[1] == []
    assert folder.state().status == "running"
    first = folder.cells()[0]
    code, output = bench(world, "run", "--resume", folder.id)
    assert code == 3, output
    lines = folder.cells()
    assert lines[0] == first
    assert len(lines) == 2


def test_wrong_answers_are_found_before_and_while_it_is_measured(world: Path) -> None:
    """A server that errs in a tenth of its answers may pass the gate, and not the run."""
    with oracle(Wrong(10)) as address:
        code, output = bench(world, "run", str(written(world, address, rounds=1)))
    assert code == 3, output
    for line in only_run(world).cells():
        assert 0 < line["outcomes"]["wrong_answer"] < line["scheduled"] / 4
        assert any("wrong answers" in reason for reason in line["reasons"])
