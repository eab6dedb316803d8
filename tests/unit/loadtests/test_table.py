"""The terminal's table."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.summary import build_summary
from loadtests.table import results_table
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.demo_lines import demo_lines


def _printed(summary: dict[str, Any], width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(results_table(summary))
    return out.getvalue().splitlines()


@pytest.fixture
def summary(tmp_path: Path) -> dict[str, Any]:
    """A demo with one model."""
    return build_summary(demo_lines(), artifacts=write_toy(tmp_path), environment={})


def test_each_cell_is_a_row_under_its_model(summary: dict[str, Any]) -> None:
    """Everything the table promises stands in one line, and the title names the stand-in."""
    lines = _printed(summary, 120)
    assert lines[0].rstrip() == "toy, with savedmodel-server 1.0 (stand-in)"
    assert sum("TorchServe 0.12.0" in line for line in lines) == 5
    default = next(line for line in lines if "gateway (default)" in line and "tfserving" in line)
    assert default.split()[-1] == "0"
    assert "REST" in default
    assert "gRPC" in default


def test_it_fits_a_terminal_of_eighty_columns(summary: dict[str, Any]) -> None:
    """No column is cut off: the last one is there in full."""
    lines = _printed(summary, 80)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert any(line.rstrip().endswith("ures") for line in lines)


def test_invalid_cells_are_marked_and_the_line_beneath_says_why(summary: dict[str, Any]) -> None:
    """In a narrow terminal too; without one there is no such line."""
    assert not any("INVALID" in line for line in _printed(summary, 80))
    for cell in summary["cells"][5:7]:
        cell |= {"valid": False, "reasons": ["client: sends over 1 ms late 3.2 %, limit at most 1 %"]}
    lines = _printed(summary, 80)
    assert [line.split()[0] for line in lines if line.startswith("*")] == ["*tfserving", "*tfserving", "*"]
    assert any(line.startswith("* 2 of 10 INVALID: client: sends over 1 ms late (2).") for line in lines)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert any(line.rstrip().endswith("ures") for line in lines)


def test_markup_in_a_name_is_not_obeyed(tmp_path: Path) -> None:
    """A model called like rich's markup is printed as it is."""
    summary = build_summary(demo_lines("[red]x"), artifacts=write_toy(tmp_path, "[red]x"), environment={})
    assert _printed(summary, 120)[0].startswith("[red]x, with")
