"""The demo as a newcomer runs it, and what it does when a server is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.settings import PREFIX, Ports

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`twinserve demo`, with short load cells, on ports of its own; nothing of it is left afterwards."""
    ports = {f"{PREFIX}{name.upper()}": str(port) for name, port in Ports.free().model_dump().items()}
    command = [sys.executable, "-m", "twinserve", "demo", "--seconds", "1", "--users", "2", "--artifacts", str(folder)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ports, "COLUMNS": "160", "TWINSERVE_TEST_MARK": str(folder)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert left_over(folder) == []


def left_over(folder: Path) -> list[str]:
    """The processes that carry the run's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TWINSERVE_TEST_MARK") == str(folder):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.fixture
def folder(built_models: Path, tmp_path: Path) -> Path:
    """An artifacts folder with the built models."""
    (tmp_path / "models").symlink_to(built_models)
    return tmp_path


def test_the_demo_does_the_main_job(folder: Path) -> None:
    """Every cell of both models answers without a failure, and summary and report say what ran."""
    with demo(folder) as process:
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
    summary = json.loads((folder / "demo" / "summary.json").read_text())
    assert set(summary["models"]) == {"simplenn", "digits"}
    assert summary["models"]["digits"]["argmax_agreement"] == 1.0
    assert summary["models"]["digits"]["metric"]["accuracy"] >= 0.97
    assert all(model["parity_max_scaled"] <= 1e-5 for model in summary["models"].values())
    for name in summary["models"]:
        cells = [cell for cell in summary["cells"] if cell["model"] == name]
        ways = {(cell["stack"], cell["path"], cell["upstream"], cell["protocol"]) for cell in cells}
        assert len(ways) == len(cells) == 10
        assert all(cell["failures"] == 0 and cell["requests"] > 0 for cell in cells)
        assert all(cell["upstream_protocol"] == cell["protocol"] for cell in cells if cell["upstream"] == "matched")
    page = (folder / "demo" / "report.html").read_text()
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert title is not None
    stand_in = any("(stand-in)" in cell["server"] for cell in summary["cells"])
    assert ("stand-in" in title[1]) == stand_in
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert ("stand-in" in output) == stand_in


@pytest.mark.parametrize("server", ["torchserve", pytest.param("tfserving", marks=pytest.mark.faults)])
def test_a_server_killed_in_the_middle_ends_the_demo_with_its_name(folder: Path, server: str) -> None:
    """No hang, no table: an exit status of 1 and a message that names the server and its log."""
    with demo(folder) as process:
        kill_when_loading(folder, server)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
    assert re.search(rf"The demo stopped: {server} .*SIGKILL", output.replace("\n", " ")), output
    assert f"logs/{server}.log" in output.replace("\n", "")
    assert not (folder / "demo" / "summary.json").exists()


def kill_when_loading(folder: Path, server: str) -> None:
    """Kills a server as soon as the first load cell has started."""
    state = folder / "run" / "state.json"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if any((folder / "demo" / "runs").glob("*/logs/*/*.log")) and state.exists():
            servers: list[dict[str, Any]] = json.loads(state.read_text())["servers"]
            os.kill(next(item["process"]["pid"] for item in servers if item["name"] == server), signal.SIGKILL)
            return
        time.sleep(0.05)
    raise AssertionError("the demo did not come to its load cells")


@pytest.mark.faults
def test_an_interrupted_demo_leaves_nothing_behind(folder: Path) -> None:
    """Ctrl-C in the middle of the load ends every process; the exit status is 130."""
    with demo(folder) as process:
        deadline = time.monotonic() + 180
        while not any((folder / "demo" / "runs").glob("*/logs/*/*.log")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
    assert "every process was ended" in output
