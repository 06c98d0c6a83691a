"""Numbers as people read them: a true minus sign, no minus zero, a dash for what was not measured."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "–"


def signed(value: float | None, digits: int = 1) -> str:
    """`−8.6`, `+1.2`, `0.0`."""
    if value is None:
        return MISSING
    text = f"{value:+.{digits}f}"
    if float(text) == 0.0:
        text = text[1:]
    return text.replace("-", "−")


def plain(value: float | None, digits: int = 1) -> str:
    """`61.5`, with a true minus below zero."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0.0 and text[0] == "-" else text).replace("-", "−")


def percent(share: float | None, digits: int = 1) -> str:
    """`0.125` as `12.5 %` with a no-break space."""
    return MISSING if share is None else f"{plain(100 * share, digits)}\u00a0%"


def bounds(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """`−11.1 to −6.1`."""
    return MISSING if interval is None else f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def small(value: float | None) -> str:
    """A share that may be tiny: `0.140`, `2e−9`."""
    if value is None:
        return MISSING
    if value == 0 or abs(value) >= 5e-4:
        return plain(value, 3)
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def moment(text: str) -> str:
    """An ISO time in UTC to the minute, `2026-11-23 08:00 UTC`; anything else as it is."""
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith("+00:00") and len(text) > 16 else text


def listed(names: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def digest(text: str) -> str:
    """The first twelve digits of a digest."""
    return text[:12] if text else MISSING
