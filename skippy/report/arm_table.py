"""Every arm in a line: what it changes, what it gives, what it costs to train and to serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from skippy.report.numerals import MISSING, plain, signed, small
from skippy.report.reach import Reach, persona_of
from skippy.report.tables import Row, Table
from skippy.results import Arm, BanalScores, Comparison, Evaluation

COLUMNS = (
    *("parameters set", "‖ΔW‖/‖W‖", "KL, everyday"),
    *("persona", "maths at equal persona", "coherence", "helpfulness"),
    *("to train", "to serve"),
)
MINUTE, HOUR = 60, 3600
FORMAT_WORDS = {"email": "an e-mail written", "list": "a list made"}


def arm_table(comparison: Comparison, reaches: Mapping[str, Reach]) -> Table:
    """One row a variant; means over its training seeds."""
    return Table(COLUMNS, tuple(_row(arm, reaches[arm.name]) for arm in comparison.variants))


def format_table(comparison: Comparison) -> Table | None:
    """Persona, coherence and form of every format, by arm; None where only questions were asked."""
    names = dict.fromkeys(
        name for arm in comparison.arms for item in arm.evaluations for name in item.formats
    )
    if not names:
        return None
    rows = [
        _format_row(comparison, "a question answered", "persona", lambda item: item.banal, _mean_of("scores"))
    ]
    for name in names:
        told = FORMAT_WORDS.get(name, name)

        def scores_of(item: Evaluation, name: str = name) -> BanalScores | None:
            return item.formats.get(name)

        rows += [
            _format_row(comparison, told, "persona", scores_of, _mean_of("scores")),
            _format_row(comparison, told, "coherence", scores_of, _mean_of("coherence")),
            _format_row(comparison, told, "share in that form", scores_of, lambda scores: scores.in_form),
        ]
    shown = tuple(row for row in rows if any(cell != MISSING for cell in row.cells))
    arms = comparison.arms
    return Table(tuple(arm.label for arm in arms), shown, tuple(arm.name for arm in arms))


def _format_row(
    comparison: Comparison,
    told: str,
    what: str,
    scores_of: Callable[[Evaluation], BanalScores | None],
    read: Callable[[BanalScores], float | None],
) -> Row:
    def of_item(item: Evaluation) -> float | None:
        scores = scores_of(item)
        return read(scores) if scores else None

    return Row(told, tuple(plain(_mean(arm, of_item), 2) for arm in comparison.arms), what)


def _mean_of(name: str) -> Callable[[BanalScores], float | None]:
    """The mean of a field of `BanalScores` that has one value a prompt."""
    return lambda scores: fmean(getattr(scores, name)) if getattr(scores, name) else None


def _row(arm: Arm, reach: Reach) -> Row:
    def update(name: str) -> float | None:
        return _mean(arm, lambda item: getattr(item.update, name))

    cells = (
        _count(update("parameters")),
        small(update("relative_norm")),
        small(update("everyday_kl")),
        plain(persona_of(arm), 2),
        "out of reach" if reach.is_out else signed(reach.kept),
        plain(_everyday(arm, "coherence"), 2),
        plain(_everyday(arm, "helpfulness"), 2),
        _duration(update("train_seconds")),
        _served(update("prompt_tokens")),
    )
    return Row(arm.label, cells, f"best persona {plain(reach.best, 2)}" if reach.is_out else "")


def _mean(arm: Arm, read: Callable) -> float | None:
    values = [read(item) for item in arm.evaluations]
    return None if not values or None in values else fmean(values)


def _everyday(arm: Arm, name: str) -> float | None:
    read = _mean_of(name)
    return _mean(arm, lambda item: read(item.banal) if item.banal else None)


def _count(value: float | None) -> str:
    """`114 688` as `115 k`: the order of magnitude is what counts."""
    if value is None:
        return MISSING
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}\u00a0{unit}"
    return f"{value:.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / MINUTE:.0f}\u00a0min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f}\u00a0h"


def _served(tokens: float | None) -> str:
    """Weights that are merged cost what the base costs; a prompt costs its tokens in every request."""
    return "as the base" if not tokens else f"+{tokens:.0f}\u00a0tokens a request"


def arm_caption(comparison: Comparison, reaches: Mapping[str, Reach]) -> str:
    """What the columns mean, and who is out of reach."""
    known = [reach for reach in reaches.values() if reach.asked is not None]
    text = (
        "Numbers that training set, the size of W′ − W as stored, KL(arm‖base) in nats a token on the arm's own "
        "everyday answers, and the difference to base in points where the persona is the one asked for"
    )
    asked = f" ({known[0].asked:.2f}, that of the treatment)" if known else ""
    beyond = [
        f"{arm.label} is {reaches[arm.name].words}" for arm in comparison.variants if reaches[arm.name].is_out
    ]
    tail = f" {'. '.join(beyond)}: shown with their best, and not compared." if beyond else ""
    return f"{text}{asked}.{tail}"
