"""What is wrong with the store, and what to do about it; `--fix` mends what can lose nothing.

Exit code 0: nothing is wrong (any more). 1: something is, and it is listed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from entrypoints.listing import json_option, tell
from skippy.terminal.table import to_json, to_size
from skippy.words import counted


@click.command("doctor", help=__doc__)
@click.option("--fix", is_flag=True, help="mend what is safe; never deletes what an alias or a report needs")
@click.option(
    "--rehash", is_flag=True, help="hash the weights of every version again: minutes for large models"
)
@json_option
def command(fix: bool, rehash: bool, as_json: bool) -> None:
    """Examine, mend, tell."""
    findings: list[Any] = []
    mended: list[Any] = []
    refused: list[Any] = []

    def before() -> str:
        findings.extend(import_module("skippy.upkeep.doctor").examine_unopened())
        return _told(findings, [], {}, as_json) if any(one.is_fault for one in findings) else ""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        doctor = import_module("skippy.upkeep.doctor")
        findings.extend(doctor.examine(tracker, rehash=rehash))
        if fix:
            carry_out = import_module("skippy.upkeep.findings").carry_out
            done, failed = carry_out(finding for finding in findings if finding.is_safe)
            mended.extend(done)
            refused.extend(failed)
        return _told(findings, mended, {one.where: str(error) for one, error in refused}, as_json)

    tell(look, before)
    if any(finding.is_fault and finding not in mended for finding in findings):
        sys.exit(1)


def _told(findings: list[Any], mended: list[Any], refused: dict[str, str], as_json: bool) -> str:
    if as_json:
        rows = [finding.facts() | {"is_mended": finding in mended} for finding in findings]
        return to_json([row | {"refused": refused.get(row["where"], "")} for row in rows])
    lines = []
    for finding in findings:
        state = "mended" if finding in mended else "fault" if finding.is_fault else "note"
        size = f", {to_size(finding.nbytes)}" if finding.nbytes is not None else ""
        lines += [f"{state}: {finding.kind}{size}. {finding.what}", f"  where: {finding.where}"]
        if finding not in mended:
            told = refused.get(finding.where, "")
            lines += [f"  refused: {told}"] if told else []
            lines += [f"  next: {finding.next_step}"]
    left = sum(finding.is_fault and finding not in mended for finding in findings)
    count = counted(left, "fault") if left else "nothing is wrong"
    return "\n".join([*lines, count + (f", {len(mended)} mended" if mended else "")])


if __name__ == "__main__":
    command()
