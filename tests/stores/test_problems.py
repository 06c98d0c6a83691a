"""Problem sets from files: columns by any of their names, strict answers, duplicates counted, rows named."""

import json

import pandas as pd
import pytest

from skippy.errors import ProblemError
from skippy.stores.problems import MathProblem, combine, read_problems

ROWS = [
    {"id": "I-1", "problem": "What is 6 times 7?", "answer": "042"},
    {"id": "I-2", "problem": "What is 1 plus 1?", "answer": 2},
]


def write(path, rows):
    table = pd.DataFrame(rows)
    writers = {
        ".jsonl": lambda: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
        ".json": lambda: path.write_text(json.dumps(rows)),
        ".csv": lambda: table.astype(str).to_csv(path, index=False),
        ".parquet": lambda: table.astype(str).to_parquet(path),
    }
    writers[path.suffix]()
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_problems(tmp_path, suffix):
    found = read_problems(write(tmp_path / f"real{suffix}", ROWS))
    assert [problem.gold for problem in found.problems] == [42, 2]
    assert found.problems[0].id == f"real{suffix}/I-1"
    assert not found.is_aime


@pytest.mark.parametrize("question", ["problem", "question", "prompt"])
@pytest.mark.parametrize("answer", ["answer", "target"])
def test_columns_go_by_several_names(tmp_path, question, answer):
    rows = [{question: "What is 6 times 7?", answer: "42"}]
    assert read_problems(write(tmp_path / "x.jsonl", rows)).problems[0].gold == 42


def test_duplicates_are_dropped_and_counted_across_sources(tmp_path):
    first = write(tmp_path / "a.jsonl", ROWS)
    second = write(tmp_path / "b.jsonl", [{"question": "what is  6 TIMES 7?", "target": "42"}])
    found = read_problems(f"{first},{second}")
    assert len(found.problems) == 2
    assert found.duplicates == 1
    assert len(read_problems(first).problems) == 2
    assert read_problems(first).duplicates == 0


def test_one_question_with_two_answers_is_refused():
    with pytest.raises(ProblemError, match="two answers"):
        combine("x", [MathProblem("a", "Same?", 1), MathProblem("b", "same?", 2)])


@pytest.mark.parametrize("answer", ["1000", "-1", "3.5", "many", "", None, True])
def test_a_bad_answer_names_its_row(tmp_path, answer):
    rows = [*ROWS, {"id": "I-3", "problem": "A third?", "answer": answer}]
    with pytest.raises(ProblemError) as refusal:
        read_problems(write(tmp_path / "x.jsonl", rows))
    assert "row 3" in refusal.value.where


def test_a_missing_column_lists_what_there_is(tmp_path):
    with pytest.raises(ProblemError, match="column is missing") as refusal:
        read_problems(write(tmp_path / "x.jsonl", [{"text": "What?", "answer": 1}]))
    assert "text" in refusal.value.found


def test_missing_files_broken_files_and_senseless_names_are_refused(tmp_path):
    with pytest.raises(ProblemError, match="does not exist"):
        read_problems(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "torn.json").write_text('[{"problem": ')
    with pytest.raises(ProblemError, match="cannot be read"):
        read_problems(str(tmp_path / "torn.json"))
    with pytest.raises(ProblemError, match="neither a file nor a data set id"):
        read_problems("no such thing")


def test_an_absent_network_is_one_clear_message(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ProblemError, match="cannot be loaded") as refusal:
        read_problems("math-ai/aime25")
    assert "local file" in refusal.value.next_step


def test_the_digest_sees_answers_and_order():
    one, two = MathProblem("a", "A?", 1), MathProblem("b", "B?", 2)
    assert combine("x", [one, two]).digest == combine("y", [one, two]).digest
    assert combine("x", [one, two]).digest != combine("x", [two, one]).digest


def test_limit_cuts_and_an_empty_set_is_refused():
    problems = [MathProblem(str(n), f"{n}?", n) for n in range(5)]
    assert len(combine("x", problems, limit=3).problems) == 3
    with pytest.raises(ProblemError, match="empty"):
        combine("x", [])
