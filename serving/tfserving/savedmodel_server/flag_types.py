"""The types of flags, as tensorflow/core/util/command_line_flags.cc reads them; each names what it cannot read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def boolean(text: str) -> bool:
    """`true` or `false`, in small letters and nothing else."""
    if text not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text == "true"


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no natural number")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to 1")
    return value


def spelled_out(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with `--flag` as `--flag=true` for a boolean one, which never takes the next word as its value."""
    booleans = {name for action in parser._actions if action.type is boolean for name in action.option_strings}
    return [f"{word}=true" if word in booleans else word for word in arguments]
