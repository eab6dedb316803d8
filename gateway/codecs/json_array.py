"""An array of a JSON document that has not become a tensor yet."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from gateway.core.tensor import NDArray


class JsonArray:
    """A list of any depth that does not begin with an object. What it is depends on who parsed it.

    No ABCMeta: to ask an object whether it is one would cost several times as much.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The lengths of the first lists, the shape of the whole array where it is regular."""
        ...

    @abstractmethod
    def numbers(self, wide: np.dtype[Any]) -> NDArray | None:
        """All numbers in the shape of the lists, as the float64, int64 or uint64 that `wide` is.

        None where that is not certain: some element may be no number, or not fit, or lists differ in length.
        A float64 is finite.
        """
        ...

    @abstractmethod
    def as_list(self) -> list[Any]:
        """The array as nested Python lists."""
        ...
