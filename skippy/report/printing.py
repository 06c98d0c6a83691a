"""How the files of a report are put together: templates, and figures both within a page and by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import jinja2
from markupsafe import Markup, escape

from skippy.core.variants import has_seed, label_of, place_words
from skippy.report.canvas import NARROW, WIDE
from skippy.report.latex import escape_tex
from skippy.report.numerals import bounds, digest, moment, percent, plain, signed
from skippy.report.palette import read_template
from skippy.report.wording import verdict_words

RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")
SAID_APART, NOT_COMPARABLE = 3, " not comparable: "
"""Sentences that end alike and yet are said apart are fewer."""
EXCERPT_HEAD, EXCERPT_TAIL = 300, 900
"""Characters shown of a long completion: its answer is read at the end."""
OF_TEX = {
    **{"block_start_string": "<%", "block_end_string": "%>", "comment_start_string": "<#"},
    **{"variable_start_string": "<<", "variable_end_string": ">>", "comment_end_string": "#>"},
}
"""Delimiters that LaTeX does not use."""


def excerpt(text: str) -> str:
    """A completion, or its beginning and end."""
    left_out = len(text) - EXCERPT_HEAD - EXCERPT_TAIL
    if left_out <= 0:
        return text
    return f"{text[:EXCERPT_HEAD]}\n[… {left_out} characters …]\n{text[-EXCERPT_TAIL:]}"


def link_runs(line: str, runs_page: str) -> Markup:
    """A sentence with every run id in it a link to that run; the ids alone where there is no page of runs."""

    def link(found: re.Match[str]) -> str:
        run = found.group()
        text = f"<code>{run}</code>"
        return f'<a href="{escape(runs_page.replace("{run}", run))}">{text}</a>' if runs_page else text

    return Markup(RUN_ID.sub(link, str(escape(line))))


def grouped(lines: Sequence[str]) -> list[str]:
    """Three or more sentences that end alike after their figures as one: how they end, then whose figures they are."""
    by_end: dict[str, list[str]] = {}
    for line in lines:
        head, bracket, end = line.rpartition(")")
        by_end.setdefault(end if bracket else line, []).append(head + bracket)
    found = []
    for end, heads in by_end.items():
        if len(heads) < SAID_APART:
            found += [head + end for head in heads]
            continue
        lead = end.strip(":,. ")
        if all(NOT_COMPARABLE in head for head in heads):
            lead, heads = f"not comparable, {lead}", [head.partition(NOT_COMPARABLE)[2] for head in heads]
        found.append(f"{lead[:1].upper()}{lead[1:]}: {'; '.join(head.replace(': ', ' ') for head in heads)}.")
    return found


FILTERS: Mapping[str, Callable] = {
    **{"signed": signed, "plain": plain, "percent": percent, "bounds": bounds, "digest": digest},
    **{"moment": moment, "label": label_of, "words": verdict_words, "linked": link_runs, "excerpt": excerpt},
    **{"tex": escape_tex, "grouped": grouped, "place": place_words},
}


def template(name: str) -> jinja2.Template:
    """A template of the package, by its file: HTML is escaped, LaTeX has delimiters of its own."""
    environment = jinja2.Environment(
        **(OF_TEX if ".tex." in name else {}),  # type: ignore[arg-type]
        autoescape=name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= FILTERS
    environment.tests["seeded"] = has_seed
    return environment.from_string(read_template(name))


def print_figures(
    drawings: Mapping[str, Callable[[int], str | None]], style: str
) -> tuple[dict[str, Markup], dict[str, str]]:
    """Figures by name for a page, wide and narrow, and as files; one that has nothing to show is left out."""
    inline, files = {}, {}
    for name, draw in drawings.items():
        wide = draw(WIDE)
        if wide:
            inline[name] = Markup(f'<div class="wide">{wide}</div><div class="narrow">{draw(NARROW)}</div>')
            files[f"figures/{name}.svg"] = stand_alone(wide, style)
    return inline, files


def stand_alone(drawing: str, style: str) -> str:
    """A figure as a file, which has no page to take its style from."""
    return drawing.replace(">\n", f">\n<style>{style}</style>\n", 1) + "\n"
