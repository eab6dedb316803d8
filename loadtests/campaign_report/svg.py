"""Charts as light inline SVG: axes, lines, bands, bars. Colours are classes, so that the page's style sheet decides.

A chart is some kilobytes, needs no library in the page and no inline style, which the page's policy would refuse.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440.0, 58.0, 20.0, 12.0, 38.0
# Okabe and Ito's colours in an order whose neighbours differ most; classes s0 to s7 of the style sheet.
COLOURS = 8
_DASHES = {"dash": "5 3", "dot": "1.5 3"}


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic axis; `format` writes a tick. `ticks` may be given where they are no round numbers."""

    low: float
    high: float
    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    format: Callable[[float], str] = "{:g}".format

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1; what is outside is put to the edge."""
        if self.log:
            at = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        else:
            at = (value - self.low) / (self.high - self.low)
        return min(max(at, 0.0), 1.0)

    def marks(self, most: int = 7) -> list[float]:
        """Round values along the axis."""
        if self.ticks:
            return list(self.ticks)
        return _log_marks(self.low, self.high, most) if self.log else _linear_marks(self.low, self.high, most)


def log_axis(values: Iterable[float], title: str, *, least_decade: float = 0.6) -> Axis:
    """A logarithmic axis around positive values; one decade around 1 where there are none."""
    known = [value for value in values if value > 0 and math.isfinite(value)]
    low, high = (min(known) / 1.15, max(known) * 1.15) if known else (0.5, 5.0)
    if math.log10(high / low) < least_decade:
        middle = math.sqrt(low * high)
        low, high = middle / 10 ** (least_decade / 2), middle * 10 ** (least_decade / 2)
    return Axis(low, high, title, log=True)


def zero_axis(values: Iterable[float], title: str) -> Axis:
    """A linear axis from zero."""
    return Axis(0.0, max([value for value in values if math.isfinite(value)], default=1.0) * 1.06 or 1.0, title)


@dataclass(slots=True)
class Plot:
    """One chart. Things are drawn in the order of the calls, data over the grid."""

    x: Axis
    y: Axis
    label: str
    height: float = 250.0
    left: float = LEFT
    right: float = RIGHT
    width: float = WIDTH
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Of a value of x."""
        return self.left + self.x.share(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Of a value of y."""
        return self.height - BOTTOM - self.y.share(value) * (self.height - BOTTOM - TOP)

    def line(self, points: Sequence[tuple[float, float]], colour: int, dash: str = "", *, faint: bool = False) -> None:
        """A line through points; fewer than two draw nothing."""
        if len(points) < 2:
            return
        path = "M" + "L".join(f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in points)
        pattern = f' stroke-dasharray="{_DASHES[dash]}"' if dash else ""
        opacity = ' opacity=".4"' if faint else ""
        self.parts.append(f'<path class="l {_class(colour)}" d="{path}"{pattern}{opacity}/>')

    def band(self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: int) -> None:
        """The area between two lines."""
        if len(upper) < 2:
            return
        points = [*upper, *reversed(lower)]
        path = "M" + "L".join(f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in points) + "Z"
        self.parts.append(f'<path class="b {_class(colour)}" d="{path}"/>')

    def point(self, x: float, y: float, colour: int, *, shape: int = 0, faint: bool = False, title: str = "") -> None:
        """A mark; shapes tell series apart where colours do not."""
        at_x, at_y = self.px(x), self.py(y)
        told = f"<title>{escape(title)}</title>" if title else ""
        opacity = ' opacity=".4"' if faint else ""
        self.parts.append(f'<path class="p {_class(colour)}" d="{_shape(shape, at_x, at_y)}"{opacity}>{told}</path>')

    def bar(self, x0: float, y0: float, x1: float, y1: float, colour: int | str, title: str = "") -> None:
        """A rectangle between two corners."""
        left, right = sorted((self.px(x0), self.px(x1)))
        top, bottom = sorted((self.py(y0), self.py(y1)))
        told = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect class="f {_class(colour)}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.3):.1f}" '
            f'height="{max(bottom - top, 0.3):.1f}">{told}</rect>'
        )

    def rule(self, *, x: float | None = None, y: float | None = None, kind: str = "slo") -> None:
        """A line across the plot at a value of x or of y."""
        if x is not None:
            self.parts.append(f'<path class="{kind}" d="M{self.px(x):.1f} {TOP}V{self.height - BOTTOM}"/>')
        if y is not None:
            self.parts.append(f'<path class="{kind}" d="M{self.left} {self.py(y):.1f}H{self.width - self.right}"/>')

    def text(self, x: float, y: float, words: str, anchor: str = "middle", dy: float = 0.0, kind: str = "t") -> None:
        """Words at a point of the data."""
        self.parts.append(_text(self.px(x), self.py(y) + dy, words, anchor, kind))

    def label_left(self, y: float, words: str, dy: float = 4.0) -> None:
        """Words left of the axis, for rows that have names."""
        self.parts.append(_text(self.left - 6, self.py(y) + dy, words, "end"))

    def image(self, pixels: npt.NDArray[np.uint8], levels: int) -> None:
        """A picture of levels 0 (clear) to `levels`, filling the plot; row 0 is at the bottom."""
        data = base64.b64encode(png(pixels[::-1], levels)).decode()
        self.parts.append(
            f'<image x="{self.left}" y="{TOP}" width="{self.width - self.left - self.right}" '
            f'height="{self.height - BOTTOM - TOP}" preserveAspectRatio="none" class="heat" '
            f'href="data:image/png;base64,{data}"/>'
        )

    def svg(self, *, y_labels: bool = True) -> Markup:
        """The element, with grid and axes beneath."""
        base, parts = self.height - BOTTOM, []
        for value in self.x.marks():
            at = self.px(value)
            parts.append(f'<path class="g" d="M{at:.1f} {TOP}V{base}"/>')
            parts.append(_text(at, base + 14, self.x.format(value)))
        for value in self.y.marks(6) if y_labels else ():
            at = self.py(value)
            parts.append(f'<path class="g" d="M{self.left} {at:.1f}H{self.width - self.right}"/>')
            parts.append(_text(self.left - 5, at + 4, self.y.format(value), "end"))
        middle = (self.left + self.width - self.right) / 2
        parts.append(_text(middle, self.height - 6, self.x.title, kind="a"))
        if self.y.title:
            half = (TOP + base) / 2
            parts.append(
                f'<text class="a" x="11" y="{half:.1f}" text-anchor="middle" transform="rotate(-90 11 {half:.1f})">'
                f"{escape(self.y.title)}</text>"
            )
        body = "".join([*parts, *self.parts])
        # Every text in it was escaped where it was put.
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(self.label)}">'
        return Markup(f"{head}{body}</svg>")  # noqa: S704


def _text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "t") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def swatch(colour: int, dash: str = "", shape: int | None = None) -> Markup:
    """A legend's sample of a line, or of a mark."""
    pattern = f' stroke-dasharray="{_DASHES[dash]}"' if dash else ""
    mark = "" if shape is None else f'<path class="p {_class(colour)}" d="{_shape(shape, 12, 5)}"/>'
    line = f'<path class="l {_class(colour)}" d="M1 5H23"{pattern}/>'
    return Markup(f'<svg class="swatch" viewBox="0 0 24 10" aria-hidden="true">{line}{mark}</svg>')  # noqa: S704


def patch(colour: int | str) -> Markup:
    """A legend's sample of an area."""
    body = f'<rect class="f {_class(colour)}" x="5" width="14" height="10"/>'
    return Markup(f'<svg class="swatch" viewBox="0 0 24 10" aria-hidden="true">{body}</svg>')  # noqa: S704


def png(levels: npt.NDArray[np.uint8], most: int) -> bytes:
    """An indexed PNG: level 0 is clear, the others grow in strength of one colour, legible on dark and on light."""
    height, width = levels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(levels))
    shades = [(40, 120, 190)] * (most + 1)
    opacity = bytes([0, *(int(40 + 215 * level / most) for level in range(1, most + 1))])
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(bytes(shade) for shade in shades)),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _class(colour: int | str) -> str:
    return colour if isinstance(colour, str) else f"s{colour % COLOURS}"


def _shape(shape: int, x: float, y: float) -> str:
    match shape % 4:
        case 0:
            return f"M{x - 3.2:.1f} {y:.1f}a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0"
        case 1:
            return f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z"
        case 2:
            return f"M{x:.1f} {y - 3.8:.1f}l3.8 6.6h-7.6z"
        case _:
            return f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"


def _linear_marks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next((power * factor for factor in (1, 2, 2.5, 5) if power * factor >= rough), power * 10)
    # 0.3 / 0.05 is a little below 6 in binary.
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_marks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        marks = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) < 3:
            return _linear_marks(low, high, most)
        if len(inside) <= most:
            return inside
    return inside[:: math.ceil(len(inside) / most)]
