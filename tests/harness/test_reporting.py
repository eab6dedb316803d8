"""The report of a large run, with few of its requests: as many cells, rounds and charts; and the validation page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.reporting import reported
from tests.harness.validate import OUT, main

pytestmark = pytest.mark.harness
# Of ten million requests; all of them are for `make bench-validate`.
SHARE = 0.05


def test_the_report_of_a_large_run_is_soon_made_and_small(tmp_path: Path) -> None:
    """Time and size of 160 cells keep to the limits that hold for ten million requests."""
    findings = reported(tmp_path, lambda _: None, SHARE)
    assert [finding for finding in findings if not finding.within] == []


def test_a_quick_validation_never_replaces_the_published_page(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is measured, with where it would be written otherwise."""
    before = OUT.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main(["--quick", "--out", str(OUT)])
    assert "benchmarking-validation-quick.md" in capsys.readouterr().err
    assert OUT.read_bytes() == before
