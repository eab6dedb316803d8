"""What a cell needs of the disk before its processes begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.cell_spec import CellSpec, Load, Step
from loadtests.engine.run import run_cell
from loadtests.errors import LoadTestError
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.campaign.worlds import target

SPEC = CellSpec("s", target(), "s", Load("server", "poisson", (Step(10, 1),), warm_up_seconds=0, warm_up_requests=1))


@pytest.mark.parametrize("which", ["raw", "health", "log"])
def test_folders_that_cannot_be_made_are_told_in_words(which: str, tmp_path: Path) -> None:
    """Whichever of the records it is; nothing is started."""
    artifacts = write_toy(tmp_path / "artifacts")
    (tmp_path / which).write_text("a file where a folder should be")
    paths = {"raw": tmp_path / "raw" / "0", "health": tmp_path / "health" / "h.json", "log": tmp_path / "log" / "l"}
    with pytest.raises(LoadTestError, match="cannot be written"):
        run_cell(SPEC, artifacts=artifacts, **paths)
