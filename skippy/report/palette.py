"""The style sheet of figures, with the colours that the rows of the arms name."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from skippy.core.variants import VARIANTS

BASE_COLOURS = ("#5d6675", "#a3adbc")


def figure_style(arms: Iterable[str]) -> str:
    """`figures.css` and a class `arm-NAME` for every arm, on light and on dark paper."""
    colours = {name: VARIANTS[name].colours if name in VARIANTS else BASE_COLOURS for name in arms}
    light = "".join(f".arm-{name}{{--c:{pair[0]}}}" for name, pair in colours.items())
    dark = "".join(f".arm-{name}{{--c:{pair[1]}}}" for name, pair in colours.items())
    return f"{read_template('figures.css')}{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"


def read_template(name: str) -> str:
    """The text of a template or style sheet of the package."""
    return (resources.files("skippy.report") / "templates" / name).read_text(encoding="utf-8")
