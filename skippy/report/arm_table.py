"""Every arm in a line: what it changes, what it gives, what it costs to train and to serve."""

from __future__ import annotations

from collections.abc import Mapping

from skippy.report.means import everyday, mean_over_seeds, of_scores
from skippy.report.numerals import MISSING, plain, signed, small
from skippy.report.reach import Reach, persona_of
from skippy.report.tables import Row, Table, by_arm
from skippy.results import Arm, Comparison, Evaluation

COLUMNS = (
    *("parameters set", "‖ΔW‖/‖W‖", "KL, everyday"),
    *("persona", "maths at equal persona", "coherence", "helpfulness"),
    *("to train", "to serve"),
)
MINUTE, HOUR = 60, 3600
IN_FORM = "share in that form"
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
    rows = [_format_row(comparison, "", "a question answered", "scores", "persona")]
    for name in names:
        told = FORMAT_WORDS.get(name, name)
        rows += [
            _format_row(comparison, name, told, field, what)
            for field, what in (("scores", "persona"), ("coherence", "coherence"), ("in_form", IN_FORM))
        ]
    return by_arm(comparison, [row for row in rows if not _says_nothing(row)])


def _says_nothing(row: Row) -> bool:
    """Nothing was measured, or no answer of any arm has the form."""
    return set(row.cells) <= ({MISSING, plain(0.0, 2)} if row.note == IN_FORM else {MISSING})


def _format_row(comparison: Comparison, format_name: str, told: str, field: str, what: str) -> Row:
    """One field of the scores of a format, or of the everyday questions."""

    def read(item: Evaluation) -> float | None:
        return of_scores(item.formats.get(format_name) if format_name else item.banal, field)

    return Row(told, tuple(plain(mean_over_seeds(arm, read), 2) for arm in comparison.arms), what)


def _row(arm: Arm, reach: Reach) -> Row:
    def update(name: str) -> float | None:
        return mean_over_seeds(arm, lambda item: getattr(item.update, name))

    cells = (
        _count(update("parameters")),
        _size(update("relative_norm"), update("relative_shift")),
        small(update("everyday_kl")),
        plain(persona_of(arm), 2),
        "out of reach" if reach.is_out else ("≈\u00a0" if reach.is_read_off else "") + signed(reach.kept),
        plain(mean_over_seeds(arm, everyday("coherence")), 2),
        plain(mean_over_seeds(arm, everyday("helpfulness")), 2),
        _duration(update("train_seconds")),
        _served(update("prompt_tokens")),
    )
    return Row(arm.label, cells, f"best persona {plain(reach.best, 2)}" if reach.is_out else "")


def _size(norm: float | None, shift: float | None) -> str:
    """A bias changes no weight: what it is held against is what its module says anyway."""
    return small(norm) if shift is None else f"{plain(shift, 2)} of an output"


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
    return "as the\u00a0base" if not tokens else f"+{tokens:.0f}\u00a0tokens a request"


def arm_caption(comparison: Comparison, reaches: Mapping[str, Reach]) -> str:
    """What the columns mean, and who is out of reach."""
    known = [reach for reach in reaches.values() if reach.asked is not None]
    text = (
        "Numbers that training set, the size of W′ − W as stored (of a bias, which changes no "
        "weight, ‖αb‖ over the usual length of the output that it is added to), KL(arm‖base) in nats a token on the "
        "arm's own everyday answers, and the difference to base in points where the persona is the one asked for"
    )
    asked = f" ({known[0].asked:.2f}, that of the treatment)" if known else ""
    beyond = [
        f"{arm.label} is {reaches[arm.name].words}" for arm in comparison.variants if reaches[arm.name].is_out
    ]
    if any(reach.is_read_off for reach in reaches.values()):
        asked += "; ≈ is read off the frontier between two checkpoints and has no bounds, the others have theirs above"
    tail = f" {'. '.join(beyond)}: shown with their best, and not compared." if beyond else ""
    return f"{text}{asked}.{tail}"
