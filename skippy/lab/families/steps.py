"""Lines of written arithmetic that all families share, so that skill in one carries to the others."""

from __future__ import annotations


def add(left: int, right: int) -> str:
    """`12+7=19`."""
    return f"{left}+{right}={left + right}"


def subtract(left: int, right: int) -> str:
    """`19-7=12`."""
    return f"{left}-{right}={left - right}"


def divide(number: int, divisor: int) -> str:
    """`59=8*7+3`: quotient and remainder in one line."""
    return f"{number}={number // divisor}*{divisor}+{number % divisor}"


def multiply(left: int, right: int) -> list[str]:
    """One line where a factor is a digit or a multiple of ten, else tens, units and their sum."""
    if min(left, right) < 10 or left % 10 == 0 or right % 10 == 0:
        return [f"{left}*{right}={left * right}"]
    tens, units = right // 10 * 10, right % 10
    return [
        f"{left}*{tens}={left * tens}",
        f"{left}*{units}={left * units}",
        add(left * tens, left * units),
    ]
