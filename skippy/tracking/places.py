"""Where a store's files are: beside its database, also after both were moved or copied together.

MLflow writes absolute paths. Taken at their word, a moved project has lost every model, and a copy of one writes into
the original and, cleaning up, deletes from it.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse

from mlflow.utils.file_utils import local_file_uri_to_path

from skippy.errors import TrackingError

logger = logging.getLogger(__name__)

ARTIFACTS = "mlartifacts"
LOCATIONS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Table → the column that holds a path."""
BUSY_SECONDS = 60.0


def take_home(database: Path, recorded: str, home: str) -> bool:
    """Let everything that is said to lie under `recorded`, the artifacts of an experiment, be looked for at `home`.

    Only where `recorded` is such a directory of ours at another place, and `home` has the files or there are none yet.

    Args:
        recorded: where it says that artifacts are, a path or a URI.
        home: the directory beside it, where they would be if it were made now.

    Returns:
        Whether anything was changed.

    Raises:
        TrackingError: the store was taken away without its files; says where they are said to be.
    """
    there, here = local_path(recorded), local_path(home)
    if there is None or here is None or there.name != ARTIFACTS or _is_same(there, here):
        return False
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as connection, connection:
        if not here.is_dir() and connection.execute("SELECT count(*) FROM runs").fetchone()[0]:
            raise TrackingError(
                "The tracking store was moved or copied without its artifacts.",
                where=str(database),
                expected=f"{here}, beside it",
                found=f"its files are said to lie in {there}",
                next_step=f"bring {ARTIFACTS} here as well, or set MLFLOW_TRACKING_URI to the store beside them",
            )
        for table, column in LOCATIONS.items():
            connection.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "
                f"WHERE {column} = :old OR substr({column}, 1, :length + 1) = :old || '/'",
                {"old": recorded, "new": home, "length": len(recorded)},
            )
    logger.info("tracking: this store was made for %s; its files are those in %s", there, here)
    return True


def local_path(uri: str) -> Path | None:
    """The directory an artifact URI names, None if it is not on this machine's disk."""
    if urlparse(uri).scheme in ("", "file"):
        return Path(local_file_uri_to_path(uri))
    return None


def location_of(folder: Path) -> str:
    """An artifact location: the path itself, or a URI where a path would be misread as one."""
    return folder.as_uri() if set("%?#") & set(str(folder)) else str(folder)


def _is_same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))
