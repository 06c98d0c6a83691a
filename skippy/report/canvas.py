"""Drawing SVG by hand: scales and a few marks, coloured by classes so that one figure serves light and dark.

Coordinates are pixels at the figure's own width; every figure is drawn once for a page and once for a phone,
so that text is never scaled down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

WIDE, NARROW = 860, 360
NAME_CHARACTER_PIXELS = 9.3
"""Mean advance of a bold 14 px name in a wide font; only used to leave room for names."""


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the range, at most about `count` of them."""
        raw = (self.high - self.low) / max(1, count)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * base for base in (1, 2, 2.5, 5, 10) if power * base >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def fit_scale(values: Sequence[float], start: float, end: float, pad: float = 0.06) -> Scale:
    """A scale around `values` with a little air; a single value gets a range of its own."""
    low, high = min(values), max(values)
    reach = (high - low) or max(1e-6, abs(high), 1.0) * 0.1
    return Scale(low - pad * reach, high + pad * reach, start, end)


@dataclass
class Canvas:
    """Marks in drawing order."""

    width: int  # pixels
    title: str  # what the figure shows, for readers that cannot see it
    _marks: list[str] = field(default_factory=list)

    @property
    def is_narrow(self) -> bool:
        """Drawn for a phone."""
        return self.width < 600

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight stroke."""
        self._marks.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        style: str,
        *,
        radius: float = 0,
        opacity: float | None = None,
        hint: str = "",
    ) -> None:
        """A filled box; `hint` shows when a pointer rests on it."""
        shade = "" if opacity is None else f' fill-opacity="{opacity:.3f}"'
        corner = f' rx="{radius:g}"' if radius else ""
        box = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
        tail = f"><title>{escape(hint)}</title></rect>" if hint else "/>"
        self._marks.append(f'<rect class="{style}" {box}{corner}{shade}{tail}')

    def circle(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """A dot."""
        tail = f"><title>{escape(hint)}</title></circle>" if hint else "/>"
        self._marks.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{tail}')

    def path(self, points: Sequence[tuple[float, float]], style: str, *, is_closed: bool = False) -> None:
        """A polyline, or an area."""
        joined = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._marks.append(f'<path class="{style}" d="M{joined}{" Z" if is_closed else ""}"/>')

    def text(self, x: float, y: float, content: str, style: str = "label", anchor: str = "start") -> None:
        """A label; `y` is its baseline."""
        place = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._marks.append(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{place}>{escape(content)}</text>')

    def open_link(self, target: str) -> None:
        """Marks until `close_link` lead to `target`."""
        self._marks.append(f"<a href={quoteattr(target)}>")

    def close_link(self) -> None:
        """End of a link."""
        self._marks.append("</a>")

    def x_axis(
        self, scale: Scale, top: float, bottom: float, label: str, *, count: int = 7, digits: int = 0
    ) -> None:
        """Vertical grid lines with values below, and what is measured under them."""
        count = min(count, 4) if self.is_narrow else count
        for value in scale.ticks(count):
            self.line(scale(value), top, scale(value), bottom, "grid")
            self.text(scale(value), bottom + 16, _tick(value, digits), "tick", "middle")
        self.text((scale.start + scale.end) / 2, bottom + 34, label, "axis", "middle")

    def y_axis(
        self, scale: Scale, left: float, right: float, label: str, *, count: int = 5, digits: int = 0
    ) -> None:
        """Horizontal grid lines with values on the left, and what is measured above them."""
        for value in scale.ticks(count):
            self.line(left, scale(value), right, scale(value), "grid")
            self.text(left - 7, scale(value) + 4, _tick(value, digits), "tick", "end")
        self.text(0, scale.end - 14, label, "axis")

    def finish(self, height: float) -> str:
        """The figure as an inline `<svg>` element."""
        size = f'viewBox="0 0 {self.width} {height:.0f}" width="{self.width}" height="{height:.0f}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(self.title)}>'
        )
        return head + "\n" + "\n".join(self._marks) + "\n</svg>"


def spread_labels(
    positions: Sequence[float], gap: float = 15.0, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Label positions moved apart to `gap`, order kept, as little as a single pass allows, within low and high."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = list(positions)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    excess = (max(placed) - max(positions)) / 2 if placed else 0.0
    if placed:  # too many for the room overflow at the far end, where the figure ends
        excess = min(max(excess, max(placed) - high), min(placed) - low)
    return [value - excess for value in placed]


def name_room(names: Iterable[str]) -> float:
    """Pixels that the longest of some names takes."""
    return NAME_CHARACTER_PIXELS * max(len(name) for name in names)


def _tick(value: float, digits: int) -> str:
    """A tick with as many digits as its step needs."""
    text = f"{value:.{digits}f}"
    if abs(float(text) - value) > 1e-9:
        text = f"{value:g}"
    return "0" if float(text) == 0 else text.replace("-", "−")
