"""What the tests of the nursery let its children do."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """`copy IN OUT` copies what a descriptor gives, `hang IN` waits for its end, `fail` raises, `leave` exits.

    After `outlive IN`, which waits for the end of IN, an interpreter that comes to its own end says so.
    """
    match list(arguments):
        case ["copy", source, to]:
            while data := os.read(int(source), 100):
                os.write(int(to), data)
            print("copied", os.getpid() == os.getpgid(0))
            return 7
        case ["hang", source]:
            os.read(int(source), 1)
        case ["outlive", source]:
            atexit.register(print, "an interpreter's end", flush=True)
            os.read(int(source), 1)
        case ["fail"]:
            raise ValueError("this child fails")
        case ["leave"]:
            sys.exit("this child leaves")
    return 0
