"""Value objects that the hot path makes by the dozen.

To the type checker `value_type` is `dataclasses.dataclass`, so that nothing of ours assigns to a field of what is
declared `frozen`. At run time it leaves out the guard against that, for which each field would be set by a call: an
object of seven fields would take four times as long.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

__all__ = ["value_type"]


if TYPE_CHECKING:
    from dataclasses import dataclass as value_type
else:

    def value_type(*, frozen: bool, eq: bool = True, **options: Any) -> Any:  # noqa: ANN401 - a decorator of any class
        """`dataclasses.dataclass`, hashed by its fields as a frozen one is, without the guard at run time."""
        return dataclasses.dataclass(eq=eq, unsafe_hash=frozen and eq, **options)
