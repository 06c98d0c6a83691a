"""Problem × model heat map; problems that flipped lead to their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skippy.core.problem import Problem
from skippy.core.variants import label_of
from skippy.report.canvas import Canvas, name_room
from skippy.report.flips import Flip, mean_shares
from skippy.report.numerals import percent
from skippy.results import Comparison

ROW_PIXELS, LARGEST_CELL_PIXELS = 20, 34


def draw_heatmap(comparison: Comparison, flips: Sequence[Flip], linked: Sequence[str], width: int) -> str:
    """The figure: one block per family (wrapped where it is wide), one row per arm, one column per problem.

    Args:
        flips: marked with a triangle.
        linked: anchors that the page shows; other flips are marked without a link.
    """
    canvas = Canvas(width, "Share of correct samples for every problem and model")
    label_width = 14.0 + name_room(arm.label for arm in comparison.arms)
    shares = {arm.name: mean_shares(arm) for arm in comparison.arms}
    families: dict[str, list[Problem]] = {}
    for problem in comparison.problems:
        families.setdefault(problem.family, []).append(problem)
    largest = max(len(members) for members in families.values())
    minimum = 9.0 if canvas.is_narrow else 8.0
    columns = max(1, min(largest, int((width - label_width) / minimum)))
    cell = min(LARGEST_CELL_PIXELS, (width - label_width) / columns)
    marked = {(flip.variant, flip.problem.hash): flip for flip in flips}
    y = 14.0
    for family, members in families.items():
        ordered = sorted(members, key=lambda p: (-shares["base"].get(p.hash, 0.0), p.id))
        canvas.text(0, y, f"{family or 'all problems'} · {len(members)}", "strong")
        y += 10
        for start in range(0, len(ordered), columns):
            chunk = ordered[start : start + columns]
            for arm in comparison.arms:
                _draw_row(canvas, arm.name, chunk, shares[arm.name], marked, linked, (label_width, y, cell))
                y += ROW_PIXELS
            y += 10
        y += 16
    _draw_key(canvas, label_width, y)
    return canvas.finish(y + (44 if canvas.is_narrow else 22))


def _draw_row(
    canvas: Canvas,
    name: str,
    problems: Sequence[Problem],
    shares: Mapping[str, float],
    marked: Mapping[tuple[str, str], Flip],
    linked: Sequence[str],
    place: tuple[float, float, float],
) -> None:
    left, y, cell = place
    canvas.text(left - 8, y + 14, label_of(name), f"row-name arm-{name}", "end")
    for index, problem in enumerate(problems):
        x = left + index * cell
        share = shares.get(problem.hash)
        flip = marked.get((name, problem.hash))
        if share is None:
            canvas.rect(x, y, cell - 1, ROW_PIXELS - 2, "cell-missing", hint=f"{problem.id}: not scored")
            continue
        is_link = flip is not None and flip.anchor in linked
        if is_link and flip:
            canvas.open_link(f"#{flip.anchor}")
        hint = f"{problem.id}, {label_of(name)}: {percent(share, 0)} of samples right"
        canvas.rect(x, y, cell - 1, ROW_PIXELS - 2, "cell", opacity=0.07 + 0.93 * share, hint=hint)
        if flip:
            _draw_mark(canvas, flip, x, y, cell)
        if is_link:
            canvas.close_link()


def _draw_mark(canvas: Canvas, flip: Flip, x: float, y: float, cell: float) -> None:
    half = min(4.0, (cell - 1) / 2 - 0.5)
    middle, centre = x + (cell - 1) / 2, y + (ROW_PIXELS - 2) / 2
    tip = half if flip.is_lost else -half
    points = [
        (middle - half, centre - tip * 0.7),
        (middle + half, centre - tip * 0.7),
        (middle, centre + tip * 0.9),
    ]
    canvas.path(points, "lost" if flip.is_lost else "gained", is_closed=True)


def _draw_key(canvas: Canvas, left: float, y: float) -> None:
    """Five shades with their meaning, and the two marks."""
    canvas.text(left - 8, y + 12, "share", "tick", "end")
    for index, share in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        canvas.rect(left + 38 * index, y, 36, 14, "cell", opacity=0.07 + 0.93 * share)
        style = "tick on-full" if share > 0.5 else "tick on-pale"
        canvas.text(left + 38 * index + 18, y + 11, percent(share, 0).replace("\u00a0", ""), style, "middle")
    x, y = (left, y + 22) if canvas.is_narrow else (left + 204, y)
    canvas.path([(x, y + 4), (x + 8, y + 4), (x + 4, y + 11)], "lost", is_closed=True)
    canvas.text(x + 13, y + 12, "lost", "tick")
    canvas.path([(x + 48, y + 11), (x + 56, y + 11), (x + 52, y + 4)], "gained", is_closed=True)
    canvas.text(x + 61, y + 12, "gained", "tick")
