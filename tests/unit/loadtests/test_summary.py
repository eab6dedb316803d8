"""`summary.json`: its shape and where its figures come from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.analysis.validity import Check
from loadtests.errors import LoadTestError
from loadtests.summary import build_summary, invalid_words, stand_ins_of, write_summary
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.demo_lines import demo_lines

CELL_KEYS = {
    *("model", "stack", "server", "path", "upstream", "protocol", "upstream_protocol"),
    *("requests", "failures", "rps", "p50_ms", "p95_ms", "p99_ms", "valid", "reasons"),
}


def test_the_summary_has_the_promised_shape(tmp_path: Path) -> None:
    """Models with parity and metric, one entry for each cell, the environment; JSON types throughout."""
    summary = build_summary(demo_lines(), artifacts=write_toy(tmp_path), environment={"python": "3.11"})
    assert json.loads(json.dumps(summary)) == summary
    assert summary["models"] == {
        "toy": {
            "parity_max_scaled": 2.3e-7,
            "parity_max_abs": 3.1e-5,
            "argmax_agreement": 1.0,
            "metric": {"accuracy": 0.98},
        }
    }
    assert len(summary["cells"]) == 10
    for cell in summary["cells"]:
        assert cell.keys() == CELL_KEYS
        assert cell["path"] in ("direct", "gateway")
        assert (cell["upstream"] is None) == (cell["path"] == "direct") == (cell["upstream_protocol"] is None)
        assert cell["failures"] == 0 < cell["requests"]


def test_the_environment_tells_the_load_and_the_stand_in(tmp_path: Path) -> None:
    """A stand-in is found in the cells themselves, not in what the caller believes."""
    environment = build_summary(demo_lines(), artifacts=write_toy(tmp_path), environment={})["environment"]
    assert environment["stand_in"] is True
    assert environment["stand_ins"] == ["savedmodel-server 1.0 (stand-in)"]
    assert environment["load"]["loop"] == "closed"
    assert environment["load"]["users"] == [4]
    assert environment["load"]["generator_cpu_max"] == 0.4


def test_real_servers_are_no_stand_in(tmp_path: Path) -> None:
    """Without the mark in any cell there is none."""
    torchserve = [line for line in demo_lines() if line["stack"] == "torchserve"]
    summary = build_summary(torchserve, artifacts=write_toy(tmp_path), environment={})
    assert summary["environment"]["stand_in"] is False
    assert stand_ins_of(summary) == ()


def test_invalid_cells_say_which_checks_failed() -> None:
    """The most frequent first, without the values, which differ from cell to cell."""
    lag, still = (
        Check("dispatch lag p99", "client", 1.84, 1, " ms"),
        Check("three windows, max/min - 1", "server", 12, 9),
    )
    none = Check("generator workers that gave an account", "record", 0, 1, at_least=True)
    cells = [{"valid": True, "reasons": []}]
    for checks in ((lag, still), (replace(lag, value=4.0),), (none,)):
        cells.append({"valid": False, "reasons": [check.reason for check in checks]})
    assert invalid_words(cells[:1]) == ""
    assert invalid_words(cells) == (
        "3 of 4 INVALID: client: dispatch lag p99 (2), server: three windows, max/min - 1 (1), "
        "record: generator workers that gave an account (1)"
    )


def test_a_model_without_contract_is_an_error(tmp_path: Path) -> None:
    """No figures without parity."""
    with pytest.raises(LoadTestError, match=r"contract\.json"):
        build_summary(demo_lines(), artifacts=tmp_path, environment={})


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    """The folder is made, and no half of a file is left beside it."""
    path = tmp_path / "demo" / "summary.json"
    write_summary({"cells": []}, path)
    assert json.loads(path.read_text()) == {"cells": []}
    assert [item.name for item in path.parent.iterdir()] == ["summary.json"]
