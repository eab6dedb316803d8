"""The environment of a run."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path

from loadtests.environment import describe_environment


def test_the_environment_says_what_a_reader_needs() -> None:
    """Processor, memory, system, versions and date, in JSON types."""
    found = describe_environment(["numpy", "no-such-package"])
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["python"] == platform.python_version()
    assert list(found["packages"]) == ["numpy"]
    assert datetime.fromisoformat(found["date"]).tzinfo is not None
    assert platform.node() not in json.dumps({key: found[key] for key in ("os", "kernel", "cpu_model")})


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    """A copy without git's data has neither commit nor changes."""
    found = describe_environment([], root=tmp_path)
    assert found["git_commit"] is None
    assert found["git_dirty"] is None
