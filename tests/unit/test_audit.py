"""What `make audit` makes of pip-audit's reports."""

from __future__ import annotations

from typing import Any

import pytest

from tests.audit import (
    ACCEPTED,
    CLEAN,
    FOUND,
    NOT_SCANNED,
    PINS,
    Accepted,
    AuditError,
    accepted,
    judged,
    pins,
    told,
    unpinned,
)

SKIPPED = "Dependency not found on PyPI and could not be audited: jinja2 (2.10)"
PINNED = {"jinja2": "2.10", "idna": "3.7"}


def report(*, jinja2: dict[str, Any]) -> dict[str, Any]:
    """In the form of pip-audit 2.10's `--format json`."""
    return {
        "dependencies": [{"name": "Jinja2", **jinja2}, {"name": "idna", "version": "3.7", "vulns": []}],
        "fixes": [],
    }


CLEAN_REPORT = report(jinja2={"version": "2.10", "vulns": []})
FOUND_REPORT = report(
    jinja2={
        "version": "2.10",
        "vulns": [
            {
                "id": "PYSEC-2019-217",
                "fix_versions": ["2.10.1"],
                "aliases": ["CVE-2019-10906", "GHSA-462w-v97r-4m45"],
                "description": "str.format_map allows a sandbox escape.",
            }
        ],
    }
)
SKIPPED_REPORT = report(jinja2={"skip_reason": SKIPPED})


def test_pins_without_a_finding_pass() -> None:
    """Every one of them was looked up."""
    verdict = judged(CLEAN_REPORT, PINNED, [])
    assert verdict.status == CLEAN
    assert told(verdict) == "2 of 2 pinned packages scanned."


def test_a_finding_fails_it_and_says_where_it_is_fixed() -> None:
    """With all the names that it goes by."""
    verdict = judged(FOUND_REPORT, PINNED, [])
    assert verdict.status == FOUND
    text = "FOUND jinja2 2.10: PYSEC-2019-217, CVE-2019-10906, GHSA-462w-v97r-4m45; fixed in 2.10.1"
    assert text in told(verdict)


@pytest.mark.parametrize("name", ["PYSEC-2019-217", "CVE-2019-10906"])
def test_a_finding_that_is_explained_passes_with_its_reason(name: str) -> None:
    """By any of its names, of that package only."""
    verdict = judged(FOUND_REPORT, PINNED, [Accepted(name, "jinja2", "no template of others is rendered")])
    assert verdict.status == CLEAN
    assert f"explained jinja2 2.10: {name}: no template of others is rendered" in told(verdict)
    assert judged(FOUND_REPORT, PINNED, [Accepted(name, "idna", "of another package")]).status == FOUND


def test_an_explanation_that_nothing_needs_any_more_fails_it() -> None:
    """It would hide the finding that comes back."""
    verdict = judged(CLEAN_REPORT, PINNED, [Accepted("CVE-2019-10906", "jinja2", "was so")])
    assert verdict.status == FOUND
    assert "STALE" in told(verdict)


def test_what_was_not_looked_up_fails_it_and_says_why() -> None:
    """pip-audit ends well where it skipped every package; nothing is known of them then, and nothing is stale."""
    verdict = judged(SKIPPED_REPORT, PINNED, [Accepted("CVE-2019-10906", "jinja2", "was so")])
    assert verdict.status == NOT_SCANNED
    assert told(verdict).splitlines()[:2] == [
        "1 of 2 pinned packages scanned.",
        "NOT SCANNED 1: jinja2: Dependency not found on PyPI and could not be audited",
    ]
    assert "SERVICE=osv" in told(verdict)


def test_a_pin_that_the_report_leaves_out_was_not_scanned() -> None:
    """Silence is no word of safety."""
    assert judged({"dependencies": []}, PINNED, []).not_scanned.keys() == PINNED.keys()


def test_what_is_installed_and_not_pinned_is_told() -> None:
    """By other spellings and builds of a name and version it is the same; the tools that install are no part of it."""
    components = [
        {"name": "Jinja2", "version": "2.10"},
        {"name": "torch", "version": "2.13.0+cpu"},
        {"name": "stray_thing", "version": "1.0"},
        {"name": "idna", "version": "3.8"},
        {"name": "pip", "version": "25.0"},
    ]
    assert unpinned({"components": components}, {**PINNED, "torch": "2.13.0"}) == ["idna 3.8", "stray-thing 1.0"]


def test_the_files_in_use_can_be_read() -> None:
    """Every line of constraints.txt is a pin, every entry of audit.yaml has a reason."""
    assert pins(PINS.read_text("utf-8"))["grpcio"]
    accepted(ACCEPTED.read_text("utf-8"))


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (pins, "grpcio>=1.0", "pins no version"),
        (accepted, "accepted: [{id: CVE-1, package: a}]", "missing: reason"),
        (accepted, "accepted: [{id: CVE-1, package: a, reason: ' '}]", "missing: reason"),
    ],
)
def test_what_pins_or_explains_nothing_is_refused(read: Any, text: str, message: str) -> None:
    """The text says what is expected."""
    with pytest.raises(AuditError, match=message):
        read(text)
