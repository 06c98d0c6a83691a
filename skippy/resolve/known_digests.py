"""Digests of large bases, kept for as long as their files are the same: 17 GB are not hashed again to do nothing.

A file is the same while its place, size, inode and both of its times are. Changing a byte changes `ctime`, which no
program can set back; a file that changed moments before it was hashed is not remembered, since a clock has its ticks.
What a merge registered is hashed whatever is known of it (`resolve.subjects`).
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from skippy.stores.atomic import write_bytes
from skippy.stores.checkpoints import Checkpoint

FILE = "base_digests.json"
SETTLED_SECONDS = 2.0
MOST = 64
"""Bases remembered; the oldest goes."""


def digest_of(checkpoint: Checkpoint, folder: Path) -> str:
    """The digest of a checkpoint: known, or hashed and remembered in `folder`.

    Raises:
        CheckpointError: it is hashed, and holds NaN or ends early.
    """
    known, key = _read(folder / FILE), _key(checkpoint)
    if key in known:
        return known[key]
    began = time.time()
    digest = checkpoint.digest()
    changed = max(max(state.st_mtime, state.st_ctime) for state in map(Path.stat, checkpoint.files))
    if key == _key(checkpoint) and changed < began - SETTLED_SECONDS:
        entries = [*_read(folder / FILE).items(), (key, digest)][-MOST:]
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / FILE, json.dumps(dict(entries), indent=1).encode())
    return digest


def _key(checkpoint: Checkpoint) -> str:
    states = [(file.resolve(), file.stat()) for file in checkpoint.files]
    lines = [
        f"{path} {state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
        for path, state in states
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
