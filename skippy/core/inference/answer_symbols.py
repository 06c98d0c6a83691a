"""The tables of the scanner: what each command of TeX and each sign is. What stands in none is mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

Value = TypeVar("Value")
Kind = Literal[
    "number",  # digits, with thousands separators or decimals
    "word",  # two letters or more, lower case
    "name",  # one letter of mathematics, or a command that is no decoration
    "equals",
    "relation",  # any other relation, and the connectives of logic
    "implies",
    "operator",
    "minus",
    "comma",  # , ; and : before a space
    "stop",  # . ! ?
    "dash",  # in prose: an em dash, or a hyphen between spaces
    "space",
    "break",  # a new line or a wide space of TeX, which part two statements
    "open",
    "close",
    "script",  # an exponent or a subscript with its own tokens
    "degree",
    "currency",
    "percent",
    "ellipsis",
    "unknown",
]
Mode = Literal["math", "text", "prose", "roman"]


def _each(names: str, value: Value) -> Mapping[str, Value]:
    return dict.fromkeys(names.split(), value)


_SPACINGS = "displaystyle textstyle scriptstyle limits nolimits nonumber notag strut mathstrut"
_SIZES = """
    left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr tiny scriptsize footnotesize
    small normalsize large Large LARGE huge Huge
"""
_SWITCHES = "bf rm it sf tt sl sc em cal bfseries itshape rmfamily mdseries centering normalfont boldmath"
MODES: dict[str, Mode] = {
    **_each("text textbf textit textrm textnormal textsf texttt textup textmd textsc textsl emph", "text"),
    **_each("mbox hbox makebox textcolor", "text"),
    **_each("mathrm operatorname mathsf mathup rm", "roman"),
}
_MATH_FONTS = """
    mathbf mathit mathtt mathnormal mathcal mathbb mathfrak mathscr bm boldsymbol pmb symbf symup ensuremath
    underline uline boxed fbox framebox colorbox fcolorbox color underbrace smash
"""
_ORNAMENTS = """
    blacksquare square Box qed qedsymbol checkmark bigstar star heartsuit spadesuit clubsuit diamondsuit smiley
    lozenge blacklozenge Diamond
"""
DECORATIONS = frozenset(f"{_SIZES} {_SWITCHES} {_MATH_FONTS} {_ORNAMENTS} {_SPACINGS}".split())
"""Commands that leave what they hold or follow as it is."""
SKIPPED_ARGUMENTS = {
    **dict.fromkeys(
        ("color", "textcolor", "colorbox", "begin", "end", "hspace", "vspace", "label", "tag"), 1
    ),
    **dict.fromkeys(("fcolorbox",), 2),
    **dict.fromkeys(("phantom", "hphantom", "vphantom", "hskip", "kern", "mkern"), 1),
}
_ENVIRONMENTS = """
    aligned align align* alignat gather gather* gathered equation equation* split multline multline* math
    displaymath center flushleft flushright verbatim
"""
ENVIRONMENTS = frozenset(_ENVIRONMENTS.split())
"""Environments that only set their content."""
COMMANDS: dict[str, Kind] = {
    **_each(
        """
        ne neq not le leq leqslant ge geq geqslant lt gt ll gg approx approxeq sim simeq cong equiv propto in notin
        ni mid nmid subset subseteq supset supseteq prec succ doteq lesssim gtrsim to rightarrow longrightarrow
        mapsto leftarrow gets leftrightarrow Leftrightarrow iff vee lor wedge land cup cap or
        """,
        "relation",
    ),
    **_each("implies Rightarrow Longrightarrow therefore", "implies"),
    **_each("times cdot div pm mp ast bullet oplus otimes setminus circ", "operator"),
    **_each("ldots dots cdots dotsc dotsb dotsm dotsi dotso vdots ddots textellipsis", "ellipsis"),
    **_each("lbrace lbrack langle lfloor lceil lvert lVert lparen", "open"),
    **_each("rbrace rbrack rangle rfloor rceil rvert rVert rparen", "close"),
    **_each("pounds euro texteuro textdollar yen textyen textsterling cent textcent mathdollar", "currency"),
    **dict.fromkeys(("degree", "textdegree"), "degree"),
    **dict.fromkeys(("coloneqq", "eq"), "equals"),
    "colon": "comma",
}

SYMBOLS: dict[str, Kind] = {
    **dict.fromkeys(("=", "==", ":=", "≔", "＝", "&="), "equals"),
    **dict.fromkeys(
        ("<=", ">=", "!=", "/=", "<>", "=/=", "~=", "=~", "~", "=>", "->", "<-", "=<", "≈="), "relation"
    ),
    **dict.fromkeys("<>≠≤≥≈≃≅≡∼∝∈∉∋⊂⊆⊃⊇≪≫≲≳→←↔⇔↦∣∨∧∪∩⩽⩾", "relation"),
    **dict.fromkeys(("⇒", "⟹", "==>"), "implies"),
    **dict.fromkeys("+×÷·±∓/^⋅∗√∛∑∏∫|", "operator"),
    **dict.fromkeys("-−", "minus"),
    **dict.fromkeys(",;，；、", "comma"),
    **dict.fromkeys(".!?。！？", "stop"),
    **dict.fromkeys(("...", "…", "⋯"), "ellipsis"),
    **dict.fromkeys("([", "open"),
    **dict.fromkeys(")]", "close"),
    **dict.fromkeys("°º˚", "degree"),
    **dict.fromkeys("€£¥₹¢₩￥", "currency"),
    **dict.fromkeys("%‰％", "percent"),
    **dict.fromkeys("∞π∅ℝℤℕℚℂ∂∇∀∃∴∵∠△", "name"),
}
MARKUP = frozenset('*`"“”„«»‘’_#&•∎■□▪◼◻★☆✓✔✅')
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
