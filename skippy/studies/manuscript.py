"""From the JSON that a study leaves to a folder of LaTeX, and to a PDF where a TeX is installed.

    python -m skippy.studies.manuscript OUT FOLDER [FOLDER …]

writes the paper of one study or several into OUT, from `study.json` in each FOLDER, with no base and no tracker.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skippy.errors import ReportError
from skippy.report.paper import render_paper
from skippy.stores.atomic import write_bytes
from skippy.studies.conclusion import JSON_FILE

logger = logging.getLogger(__name__)

LATEX = ("pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "main")
PASSES = (LATEX, ("bibtex", "main"), LATEX, LATEX)
"""As the Makefile of a paper has it."""
PASS_SECONDS = 120.0
USAGE = "python -m skippy.studies.manuscript OUT FOLDER [FOLDER …]"


def read_study(folder: Path) -> Mapping[str, Any]:
    """The JSON of a study.

    Raises:
        ReportError: there is none, or it is not JSON.
    """
    path = folder / JSON_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(
            "The study's JSON cannot be read.",
            where=str(path),
            expected=f"a folder that holds {JSON_FILE}",
            found=str(error),
            next_step="name the study/ folder of a finished study",
        ) from error
    if not isinstance(content, dict):
        raise ReportError(
            "The study's JSON is not a study.",
            where=str(path),
            expected="a mapping",
            found=type(content).__name__,
        )
    return content


def write_paper(contents: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the paper's folder; a file that is there already is replaced."""
    for name, content in render_paper(contents).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out / name, content if isinstance(content, bytes) else content.encode())


def is_tex_here() -> bool:
    """Whether this machine can typeset."""
    return all(shutil.which(name) for name in ("pdflatex", "bibtex"))


def typeset(folder: Path) -> Path:
    """`main.pdf` of a paper's folder, made as its Makefile makes it; no clock enters it.

    Raises:
        ReportError: TeX refused; says what it said.
    """
    clockless = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
    for command in PASSES:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, **clockless},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PASS_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _untypeset(folder, str(error)) from error
        if done.returncode:
            raise _untypeset(folder, _complaint(done.stdout.decode(errors="replace")))
    return folder / "main.pdf"


def _complaint(said: str) -> str:
    """What TeX or BibTeX complained of: its first error and the line, else the last line it said."""
    lines = said.strip().splitlines() or ["nothing"]
    errors = [line for line in lines if line.startswith("!")]
    places = [line for line in lines if re.match(r"l\.\d+", line)]
    return " ".join([*errors[:1], *places[:1]]) or lines[-1]


def _untypeset(folder: Path, found: str) -> ReportError:
    return ReportError(
        "The paper could not be typeset.",
        where=str(folder / "main.tex"),
        expected="pdflatex and bibtex with booktabs, natbib and hyperref",
        found=found,
        next_step="install a TeX with these packages (TeX Live: latex-recommended), then run make in that folder",
    )


def main(arguments: Sequence[str]) -> None:
    """Write the paper of one study or several, and its PDF where a TeX is installed."""
    if len(arguments) < 2:
        raise ReportError(
            "Two folders at least are needed.",
            where="arguments",
            expected=USAGE,
            found=" ".join(arguments) or "none",
        )
    out, *folders = (Path(argument) for argument in arguments)
    write_paper([read_study(folder) for folder in folders], out)
    if is_tex_here():
        typeset(out)
    else:
        logger.warning("no TeX is installed here: run make in %s where there is one", out)


if __name__ == "__main__":
    main(sys.argv[1:])
