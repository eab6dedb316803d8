"""`make audit`: known vulnerabilities of every pinned package, by pip-audit, and an SBOM, by cyclonedx-py.

It passes only where every pin was looked up, and every finding is explained in audit.yaml. pip-audit itself ends well
where it could look up nothing at all: what it skipped is counted here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "constraints.txt"
ACCEPTED = ROOT / "audit.yaml"
OUTPUT = ROOT / "artifacts" / "audit"
TIMEOUT_S = 900.0

CLEAN, FOUND, NOT_SCANNED = 0, 1, 3


class AuditError(ValueError):
    """Raised for files that cannot be used; the text says which, and what is expected."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One known vulnerability of one pinned package; `ids` are its own id and its aliases (CVE, GHSA)."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A finding that is known and stays, and why."""

    id: str
    package: str
    reason: str


@dataclass(slots=True)
class Verdict:
    """What an audit found: what is not explained, what is, what explains nothing, and what was not looked up."""

    open: list[Finding] = field(default_factory=list)
    explained: list[tuple[Finding, Accepted]] = field(default_factory=list)
    stale: list[Accepted] = field(default_factory=list)
    not_scanned: dict[str, str] = field(default_factory=dict)
    """The reason, by package."""
    scanned: int = 0

    @property
    def status(self) -> int:
        """The exit status: what was not scanned weighs most, since nothing is known of it."""
        if self.not_scanned:
            return NOT_SCANNED
        return FOUND if self.open or self.stale else CLEAN


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Version by canonical name, of lines `name==version`; raises AuditError for any other."""
    found: dict[str, str] = {}
    for written in text.splitlines():
        line = written.partition("#")[0].strip()
        if not line:
            continue
        name, equal, version = line.partition("==")
        if not equal:
            raise AuditError(f"constraints.txt: '{line}' pins no version; expected name==version")
        found[canonical(name)] = version.partition(";")[0].strip()
    return found


def accepted(text: str) -> list[Accepted]:
    """The entries of audit.yaml; raises AuditError where one has no reason."""
    entries = (yaml.safe_load(text) or {}).get("accepted") or []
    found = []
    for entry in entries:
        missing = [name for name in ("id", "package", "reason") if not str(entry.get(name, "")).strip()]
        if missing:
            raise AuditError(f"audit.yaml: {entry}: expected id, package and a reason; missing: {', '.join(missing)}")
        found.append(Accepted(entry["id"], canonical(entry["package"]), entry["reason"]))
    return found


def judged(report: Mapping[str, Any], pinned: Mapping[str, str], known: Iterable[Accepted]) -> Verdict:
    """What pip-audit's report (its `--format json`) says of the pins."""
    verdict = Verdict()
    unused = list(known)
    told = {canonical(item["name"]): item for item in report["dependencies"]}
    for name, version in sorted(pinned.items()):
        item = told.get(name)
        reason = "pip-audit's report does not mention it" if item is None else item.get("skip_reason")
        if item is None or reason is not None:
            verdict.not_scanned[name] = str(reason)
            continue
        verdict.scanned += 1
        for vulnerability in item["vulns"]:
            ids = (vulnerability["id"], *vulnerability.get("aliases", ()))
            finding = Finding(name, version, ids, tuple(vulnerability.get("fix_versions", ())))
            why = next((entry for entry in known if entry.package == name and entry.id in ids), None)
            if why is None:
                verdict.open.append(finding)
            else:
                verdict.explained.append((finding, why))
                unused = [entry for entry in unused if entry is not why]
    # Of what was not looked up nobody knows whether it still explains anything.
    verdict.stale = [entry for entry in unused if entry.package not in verdict.not_scanned]
    return verdict


def told(verdict: Verdict) -> str:
    """The verdict in words."""
    lines = [f"{verdict.scanned} of {verdict.scanned + len(verdict.not_scanned)} pinned packages scanned."]
    for finding in verdict.open:
        fix = f"fixed in {', '.join(finding.fixed_in)}" if finding.fixed_in else "no fix is released"
        lines.append(f"FOUND {finding.package} {finding.version}: {', '.join(finding.ids)}; {fix}")
    for finding, why in verdict.explained:
        lines.append(f"explained {finding.package} {finding.version}: {why.id}: {why.reason}")
    lines += [f"STALE audit.yaml explains {entry.id} of {entry.package}, which is not found" for entry in verdict.stale]
    reasons: dict[str, list[str]] = {}
    for name, reason in verdict.not_scanned.items():
        # Without the package that it names, so that the same reason is told once.
        reasons.setdefault(re.sub(r": [\w.-]+ \([^)]*\)$", "", reason), []).append(name)
    for reason, names in reasons.items():
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(f"NOT SCANNED {len(names)}: {shown}: {reason}")
    if verdict.not_scanned:
        lines += [
            "Nothing is known of what was not scanned. Run this where PyPI itself answers for pypi/NAME/VERSION/json",
            "(a mirror of PyPI mostly has packages alone), or with SERVICE=osv where https://api.osv.dev does.",
        ]
    elif verdict.open:
        lines.append("Raise the pin in constraints.txt, or explain the finding in audit.yaml.")
    return "\n".join(lines)


def audited(pinned: Mapping[str, str], service: str) -> Mapping[str, Any]:
    """pip-audit's report on the pins; where it makes none, one in which each of them is skipped, with its last word."""
    command = ["pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip", "--format", "json"]
    done = _run([*command, "--progress-spinner", "off", "--vulnerability-service", service])
    try:
        report: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        reason = f"pip-audit made no report: {said[-1][:300]}"
        report = {"dependencies": [{"name": name, "skip_reason": reason} for name in pinned]}
    return report


def write_sbom(file: Path) -> None:
    """What is installed, with licences and what depends on what, as CycloneDX JSON; raises AuditError."""
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application", "--output-reproducible"]
    done = _run(["cyclonedx_py", "environment", *options, "--of", "JSON", "-o", str(file), sys.executable])
    if done.returncode:
        raise AuditError(f"cyclonedx-py made no SBOM: {done.stderr.strip()[-300:]}")


def unpinned(sbom: Mapping[str, Any], pinned: Mapping[str, str]) -> list[str]:
    """What is installed and not pinned, or not as pinned: nobody audits that. What installs it is no part of it."""
    tools = {"pip", "setuptools", "wheel", "twinserve"}
    installed = {canonical(item["name"]): item.get("version", "") for item in sbom["components"]}
    # A build's own part, as of torch 2.13.0+cpu, is the same release.
    return [
        f"{name} {version}"
        for name, version in sorted(installed.items())
        if name not in tools and pinned.get(name) != version.partition("+")[0] and pinned.get(name) != version
    ]


def main() -> int:
    """Audits, writes the report and the SBOM, and says what came out; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="where vulnerabilities are known")
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        pinned = pins(PINS.read_text("utf-8"))
        known = accepted(ACCEPTED.read_text("utf-8"))
        write_sbom(OUTPUT / "sbom.cdx.json")
    except AuditError as exc:
        print(f"audit: {exc}", file=sys.stderr)
        return NOT_SCANNED
    report = audited(pinned, options.service)
    (OUTPUT / "pip-audit.json").write_text(json.dumps(report, indent=1), "utf-8")
    verdict = judged(report, pinned, known)
    for name in unpinned(json.loads((OUTPUT / "sbom.cdx.json").read_text("utf-8")), pinned):
        verdict.not_scanned[name] = "it is installed and not pinned in constraints.txt"
    print(told(verdict))
    print(f"Written: {OUTPUT.relative_to(ROOT)}/pip-audit.json and sbom.cdx.json (CycloneDX).")
    return verdict.status


def _run(module: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *module], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
