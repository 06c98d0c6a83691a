"""A team's tracking server on this machine, in the foreground: PostgreSQL, passwords, artifacts here or in S3."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path

import click
from click.core import ParameterSource

from skippy.errors import SkippyError, as_ours
from skippy.stages.runner import logger, speak


@click.command("server", help=__doc__)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=Path("server"),
    show_default=True,
    help="everything that the server keeps; only its user can read it",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option(
    "--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="port to listen on"
)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="processes that answer")
@click.option(
    "--database",
    default="",
    envvar="SKIPPY_DATABASE_URI",
    help="postgresql://… of a database elsewhere, [env: SKIPPY_DATABASE_URI]; empty: PostgreSQL in the folder",
)
@click.option("--artifacts", default="", help="a directory, or s3://bucket/prefix; empty: in the folder")
@click.pass_context
def command(
    context: click.Context, folder: Path, host: str, port: int, workers: int, database: str, artifacts: str
) -> None:
    """Serve until Ctrl-C."""
    speak()
    logging.getLogger("skippy").setLevel(logging.INFO)
    program = import_module("skippy.server.program")
    try:
        if context.get_parameter_source("database") is ParameterSource.COMMANDLINE:
            program.require_no_password(database)
        program.serve(program.ServerPlan(folder, host, port, workers, database, artifacts))
    except (SkippyError, OSError) as error:
        logger.error("server failed. %s", as_ours(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    command()
