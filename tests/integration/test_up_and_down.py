"""The commands as a user runs them: everything real, from nothing to predictions and back to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.settings import LaunchSettings, Ports
from serving.state import running
from tests.unit.serving.tiny import left_running

ROOT = Path(__file__).resolve().parents[2]


def _command(artifacts: Path, ports: Ports, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {f"TWINSERVE_{name.upper()}": str(port) for name, port in ports.model_dump().items()}
    return subprocess.run(
        [sys.executable, "-m", "serving", *words, "--artifacts", str(artifacts)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _predict(ports: Ports, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{ports.gateway_rest_port}/predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply), reply.headers["x-served-by"]


@pytest.mark.servers
def test_up_serves_and_down_leaves_nothing(built_models: Path, tmp_path: Path) -> None:
    """`up --detach` starts all and returns; both stacks answer like the golden outputs; `down` ends all."""
    (tmp_path / "models").symlink_to(built_models)
    ports = Ports.free()
    up = _command(tmp_path, ports, "up", "--detach")
    state = running(LaunchSettings(artifacts=tmp_path).run_dir)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        assert state is not None
        assert f"http://127.0.0.1:{ports.gateway_rest_port}" in up.stdout
        for model in ("simplenn", "digits"):
            golden = np.load(tmp_path / "models" / model / "golden.npz")
            contract = json.loads((tmp_path / "models" / model / "contract.json").read_text())
            (given,), (wanted,) = contract["inputs"], contract["outputs"]
            inputs = {given["name"]: golden[given["name"]][:3].tolist()}
            for stack in ("torchserve", "tfserving"):
                answer, served_by = _predict(ports, {"model": model, "stack": stack, "inputs": inputs})
                np.testing.assert_allclose(
                    answer["outputs"][wanted["name"]], golden[wanted["name"]][:3], rtol=1e-5, atol=1e-5
                )
                assert f"stack={stack}" in served_by
        shown = _command(tmp_path, ports, "status")
        assert shown.returncode == 0
        assert "TorchServe 0.12.0" in shown.stdout
        again = _command(tmp_path, ports, "up")
        assert again.returncode == 1
        assert "already running" in again.stderr
    finally:
        down = _command(tmp_path, ports, "down")
    assert (down.returncode, down.stdout) == (0, "Stopped torchserve, tfserving, gateway.\n")
    assert not state.launcher.runs()
    assert left_running(server.process.pid for server in state.servers) == []
    assert _command(tmp_path, ports, "status").returncode == 3
