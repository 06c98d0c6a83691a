"""A registered model as a directory of its own, every byte checked: `skippy export models:/skippy/3 DIRECTORY`.

MODEL is a models:/ URI, or champion or previous. DIRECTORY gets `weights/`, `adapter/`, `MODEL_CARD.md` and
`export.json`; it must not exist, or be empty, and is there whole, or not at all.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import click

from entrypoints.listing import json_option, tell
from skippy.terminal.table import to_json, to_size


@click.command("export", help=__doc__)
@click.argument("model")
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
def command(model: str, directory: Path, as_json: bool) -> None:
    """Write it."""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        made = import_module("skippy.upkeep.exporting").export_model(tracker, model, directory)
        if as_json:
            return to_json(asdict(made))
        adapter = "with its adapter" if made.adapter == "adapter" else f"adapter {made.adapter}"
        return f"{made.uri} is in {made.path}: {to_size(made.nbytes)}, digest {made.digest}, {adapter}"

    tell(look)


if __name__ == "__main__":
    command()
