"""Samples survive a kill at any byte: nothing finished is lost, nothing torn is believed."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skippy.errors import SamplesError
from skippy.stores.samples import Sample, SampleKey, SampleStore, read_samples

SAMPLE = Sample(
    model_digest="ab" * 32,
    suite="aime",
    problem_id="p-1",
    problem_hash="cd" * 8,
    sample_index=0,
    seed=17,
    preset="lab",
    prompt="What is 6 × 7?",
    completion="Obviously \\boxed{42},\nmonkey. 🐒",
    tokens=9,
    finish_reason="stop",
    extracted=42,
    status="boxed",
    score=1.0,
)


def numbered(count: int) -> list[Sample]:
    return [
        replace(SAMPLE, sample_index=index, completion="x" * (index * 37 % 101)) for index in range(count)
    ]


def store_all(path, samples) -> None:
    with SampleStore(path) as store:
        for sample in samples:
            store.append(sample)


def test_round_trip_and_keys(tmp_path):
    store_all(tmp_path / "s.jsonl", numbered(5))
    assert list(read_samples(tmp_path / "s.jsonl")) == numbered(5)
    with SampleStore(tmp_path / "s.jsonl") as store:
        assert store.finished() == {
            SampleKey("ab" * 32, "aime", "cd" * 8, "lab", index) for index in range(5)
        }


def test_lines_are_deterministic(tmp_path):
    for name in ("a", "b"):
        store_all(tmp_path / name, numbered(7))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_append_goes_on_where_it_was(tmp_path):
    store_all(tmp_path / "s", numbered(9)[:4])
    store_all(tmp_path / "s", numbered(9)[4:])
    assert list(read_samples(tmp_path / "s")) == numbered(9)


def test_a_line_is_written_whole_however_much_of_it_a_write_takes(tmp_path, monkeypatch):
    with SampleStore(tmp_path / "s") as store:
        file = store._file
        monkeypatch.setattr(store, "_file", SimpleNamespace(write=lambda line: file.write(line[:5])))
        store.append(SAMPLE)
        monkeypatch.undo()
    assert list(read_samples(tmp_path / "s")) == [SAMPLE]


def test_torn_anywhere_in_the_last_line_is_repaired(tmp_path):
    path = tmp_path / "s"
    store_all(path, numbered(3))
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        with SampleStore(path) as store:
            assert store.repaired_bytes == end - start
            assert len(store.finished()) == 2
            store.append(numbered(3)[2])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"{", b"{" * 200_000])
def test_only_a_torn_line(tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    with SampleStore(path) as store:
        assert store.finished() == set()
    assert path.read_bytes() == b""


def test_long_torn_line_after_good_ones(tmp_path):
    path = tmp_path / "s"
    store_all(path, numbered(2))
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 300_000)
    with SampleStore(path) as store:
        assert store.repaired_bytes == 300_000
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2] + b"\n",
        lambda line: b"\n",
        lambda line: b"[]\n",
        lambda line: line.replace(b'"score"', b'"points"'),
        lambda line: line.replace(b"\xf0", b"\xff"),
    ],
    ids=["half", "empty", "list", "field", "encoding"],
)
def test_earlier_damage_is_named_and_kept(tmp_path, damage):
    path = tmp_path / "s"
    store_all(path, [replace(SAMPLE, sample_index=index) for index in range(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = damage(lines[1])
    path.write_bytes(b"".join(lines))
    with SampleStore(path) as store, pytest.raises(SamplesError, match="line 2"):
        store.finished()
    assert path.read_bytes() == b"".join(lines)


def test_absent_file_is_an_error(tmp_path):
    with pytest.raises(SamplesError, match="no samples file"):
        list(read_samples(tmp_path / "s"))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        replace(SAMPLE, score=float("nan")).to_line()


@settings(max_examples=60, deadline=None)
@given(text=st.text(), tokens=st.integers(0, 10**6), score=st.none() | st.floats(-5, 5))
def test_any_text_round_trips_in_one_line(tmp_path_factory, text, tokens, score):
    sample = replace(SAMPLE, completion=text, prompt=text, tokens=tokens, score=score)
    path = tmp_path_factory.mktemp("s") / "s"
    store_all(path, [sample])
    assert path.read_bytes().count(b"\n") == 1
    assert list(read_samples(path)) == [sample]


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
import test_samples as t
with t.SampleStore(sys.argv[1]) as store:
    done = store.finished()
    for sample in t.numbered(int(sys.argv[3])):
        if sample.key not in done:
            store.append(sample)
            print(sample.sample_index, flush=True)
"""


def test_kill_at_random_points_loses_and_repeats_nothing(tmp_path):
    path, total, here = tmp_path / "s", 20_000, str(__import__("pathlib").Path(__file__).parent)
    command = [sys.executable, "-c", PROGRAM, str(path), here, str(total)]
    chance, announced = random.Random(5), []
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        announced.append(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        announced.extend(process.stdout.read().splitlines())
        process.wait()
        if path.read_bytes().count(b"\n") < total:
            with path.open("ab") as file:  # tear a line as a crash of the machine would
                file.write(b'{"model_digest": "ab')
    with SampleStore(path) as store:
        kept = [key.sample_index for key in store.finished()]
    numbers = [int(line) for line in announced if line.endswith("\n") or line.isdigit()]
    assert len(numbers) == len(set(numbers)), "a finished sample was generated twice"
    assert set(numbers) <= set(kept), "an announced sample was lost"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert list(read_samples(path)) == numbered(total)


def test_a_kept_sample_with_half_a_surrogate_pair_blocks_nothing(tmp_path):
    """As an earlier version wrote it: its bytes are no UTF-8, and logging them failed at every resume."""
    line = SAMPLE.to_line().replace("monkey", "half \ud83d").replace("🐒", "\ud83d\ude00")
    (tmp_path / "s.jsonl").write_bytes(line.encode("utf-8", "surrogatepass"))
    with SampleStore(tmp_path / "s.jsonl") as store:
        assert store.finished() == {SAMPLE.key}
        store.append(replace(SAMPLE, sample_index=1, completion="\udfff"))
    kept = list(read_samples(tmp_path / "s.jsonl"))
    assert kept[0].completion.endswith("half \ufffd. \U0001f600")
    assert kept[1].completion == "\ufffd"
    for sample in kept:
        assert sample.to_line().encode("utf-8")
