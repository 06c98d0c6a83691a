"""Samples as JSON lines: one finished sample a line, durable at once, so that nothing is generated twice.

A process may be killed at any byte. The only damage that can leave is a last line without its newline; it
is cut off when the file is opened again, and that one sample is generated anew. Damage earlier in the file
has another cause and is never repaired silently.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from skippy.core.surrogates import join_surrogates
from skippy.errors import SamplesError

SYNC_INTERVAL_SECONDS = 1.0
TAIL_BYTES = 1 << 16


class SampleKey(NamedTuple):
    """What makes two samples the same piece of work."""

    model_digest: str
    suite: str
    problem_hash: str
    preset: str
    sample_index: int


@dataclass(frozen=True)
class Sample:
    """One answer of one model to one problem, with its score; a line of `samples/<suite>.jsonl`."""

    model_digest: str
    suite: str
    problem_id: str
    problem_hash: str
    sample_index: int
    seed: int
    preset: str
    prompt: str
    completion: str
    tokens: int
    finish_reason: str
    extracted: int | str | None
    status: str
    score: float | None

    def __post_init__(self) -> None:
        """Whatever half a character a server once sent, the sample can be written and read by everyone."""
        for name in ("prompt", "completion"):
            object.__setattr__(self, name, join_surrogates(getattr(self, name)))

    @property
    def key(self) -> SampleKey:
        """What makes it the same piece of work as another."""
        return SampleKey(self.model_digest, self.suite, self.problem_hash, self.preset, self.sample_index)

    def to_line(self) -> str:
        """Write it as one line of JSON: fields in order, no NaN, the same bytes for the same sample."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False) + "\n"


SAMPLE_FIELDS = tuple(each.name for each in fields(Sample))


class SampleStore:
    """An append-only file of samples; opening it repairs a torn last line.

    Each line reaches the operating system before `append` returns, so that killing the process loses
    nothing; the disk is synced at most every `SYNC_INTERVAL_SECONDS` and on close, which bounds what a
    power cut can take.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.repaired_bytes = _cut_torn_line(self.path)
        self._file = self.path.open("ab", buffering=0)
        self._synced = time.monotonic()

    def __enter__(self) -> SampleStore:
        """Nothing more to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sync and close."""
        self.close()

    def append(self, sample: Sample) -> None:
        """Write one finished sample."""
        line = memoryview(sample.to_line().encode("utf-8"))
        while line:
            line = line[self._file.write(line) :]
        if time.monotonic() - self._synced > SYNC_INTERVAL_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finished(self) -> set[SampleKey]:
        """Keys of the samples that need not be generated again."""
        return {sample.key for sample in read_samples(self.path)}

    def close(self) -> None:
        """Sync and close; closing twice is harmless."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def read_samples(path: str | Path) -> Iterator[Sample]:
    """Read samples in the order written, a line at a time.

    Raises:
        SamplesError: a line is damaged; it is named.
    """
    file = Path(path)
    if not file.is_file():
        raise SamplesError(
            "There is no samples file.",
            where=str(file),
            expected="a file of JSON lines",
            found="nothing",
            next_step="run the eval stage first",
        )
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            yield _parse(file, number, line)


def _parse(file: Path, number: int, line: bytes) -> Sample:
    try:
        if not line.endswith(b"\n"):
            raise ValueError("the line is torn")
        entry = json.loads(line.decode("utf-8", "surrogatepass"))
        if set(entry) != set(SAMPLE_FIELDS):
            differing = sorted(set(entry) ^ set(SAMPLE_FIELDS))
            raise ValueError(f"missing or unknown fields {differing}")
        return Sample(**entry)
    except (ValueError, TypeError, RecursionError) as error:
        raise SamplesError(
            "The samples file is damaged before its end.",
            where=f"{file}, line {number}",
            expected="one sample as a JSON object",
            found=str(error),
            next_step="remove that line (its sample is generated again), or start a new file",
        ) from error


def _cut_torn_line(path: Path) -> int:
    """Cut the file after its last newline; return how many bytes went."""
    if not path.is_file():
        return 0
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - TAIL_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
        return size - end
