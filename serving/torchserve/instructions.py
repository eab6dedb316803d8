"""What CPU a compiled package was built for, and whether this one has its instructions.

Packed into every `.mar` beside runtimes.py; the launcher asks as well, before it starts a server. It imports only the
standard library.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

# The instructions, by the kernel's names, that AOTInductor's names of instruction sets stand for.
INSTRUCTIONS = {
    "AVX2": {"avx2", "fma", "f16c"},
    "AVX512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "AMX_TILE": {"amx_tile"},
    "AMX_FP16": {"amx_fp16"},
}
CPUINFO = Path("/proc/cpuinfo")


class Unloadable(RuntimeError):  # noqa: N818 - an answer, not a fault
    """Raised where a variant cannot be loaded here; says why, and what to do."""


def metadata(package: Path | IO[bytes]) -> dict[str, str]:
    """What AOTInductor noted of the machine that a .pt2 package was built for; raises Unloadable."""
    try:
        with zipfile.ZipFile(package) as archive:
            name = next(name for name in archive.namelist() if name.endswith("_metadata.json"))
            found: dict[str, str] = json.loads(archive.read(name))
            return found
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError) as exc:
        raise Unloadable(f"{Path(package.name).name} is no AOTInductor package: {exc or 'it has no metadata'}") from exc


def check_cpu(file: str, built: Mapping[str, str], machine: str, flags: Iterable[str]) -> None:
    """Raises Unloadable where a package needs instructions that a CPU with these `flags` has not."""
    if built.get("AOTI_MACHINE", machine) != machine:
        raise Unloadable(f"{file} was built for {built['AOTI_MACHINE']}, and this machine is {machine}; build it here")
    have = set(flags)
    for name in built.get("AOTI_CPU_ISA", "").split():
        missing = INSTRUCTIONS.get(name, {name.lower()}) - have
        if have and missing:
            best = max((known for known, needs in INSTRUCTIONS.items() if needs <= have), default="neither", key=len)
            raise Unloadable(
                f"{file} was built for a CPU with {name}, and this one lacks {', '.join(sorted(missing))} (it has"
                f" {best}): build the variant on this machine, or anywhere with TWINSERVE_AOT_CPU=avx2"
            )


def cpu_flags() -> set[str]:
    """What the kernel says of the CPU's instructions; empty where it says nothing."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", CPUINFO.read_text() if CPUINFO.exists() else "", re.MULTILINE)
    return set(found[1].split()) if found else set()
