"""The code that decides a result, as a digest: a commit names too much of it, and not what is uncommitted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import skippy
from skippy.tracking.tags import Tag

TRAINING_CODE: str = Tag.TRAINING_CODE
EVALUATION_CODE: str = Tag.EVALUATION_CODE
"""Tags of runs of `train` and `eval`."""
TRAINING = ("training", "models", "core/spectral", "core/style")
MERGING = ("stores", "core/spectral")
SEARCHING = (
    "studies/matched_dose.py",
    "studies/playback.py",
    "core/inference/dose_search.py",
    "core/style",
    "models",
)
EVALUATION = ("evaluation/asking.py", "evaluation/suites.py", "core/answers.py", "core/style", "models")


def code_digest(parts: tuple[str, ...]) -> str:
    """Sixteen hexadecimal digits of the sources under some paths of the package; comments count too."""
    root = Path(skippy.__file__).parent
    files = sorted(
        path
        for part in parts
        for path in ((root / part).rglob("*.py") if (root / part).is_dir() else [root / part])
    )
    sums = [
        f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
    ]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()[:16]
