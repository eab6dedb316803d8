"""One measurement at a time on a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.campaign.lock import CampaignRunsError, sole_campaign
from loadtests.errors import LoadTestError
from twinserve import demo

PRINT = "from loadtests.campaign.lock import LOCK; print(LOCK)"


def test_the_lock_is_one_file_of_the_host_wherever_temporary_files_are(tmp_path: Path) -> None:
    """With a TMPDIR for each user, or each shell, two campaigns would not see each other."""
    told = [
        subprocess.run(  # our own interpreter
            [sys.executable, "-c", PRINT],
            env={**os.environ, "TMPDIR": str(folder)},
            text=True,
            capture_output=True,
            check=True,
        ).stdout
        for folder in (tmp_path, Path("/tmp"))
    ]
    assert told[0] == told[1] == "/tmp/twinserve-bench.lock\n"


def test_a_lock_says_who_holds_it_while_it_is_held(tmp_path: Path) -> None:
    """Everybody may take it, nobody else while it is taken, and nothing is said of whoever had it."""
    path = tmp_path / "lock"
    with sole_campaign("R1", path):
        assert path.stat().st_mode & 0o777 == 0o666
        assert json.loads(path.read_text())["run"] == "R1"
        with pytest.raises(CampaignRunsError, match="run R1, since"), sole_campaign("R2", path):
            pass
    assert path.read_text() == ""
    with sole_campaign("R2", path):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """It may be anybody's trap: the file that it names stays as it is."""
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(LoadTestError, match="cannot be opened"), sole_campaign("R", tmp_path / "lock"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_the_demo_waits_for_no_campaign_and_disturbs_none(tmp_path: Path) -> None:
    """It refuses before it builds or starts anything."""
    options = demo.DemoOptions(tmp_path / "artifacts", "torch", 1.0, 1, tmp_path / "lock")
    with (
        sole_campaign("R1", options.lock),
        pytest.raises(demo.DemoFailedError, match="another campaign or demo runs on this host .*run R1"),
    ):
        demo.run(options, Console(quiet=True))
    assert not options.artifacts.exists()
