"""Problem sets from files: columns by any of their names, strict answers, duplicates counted, rows named."""

import json

import pandas as pd
import pytest

from skippy.core.problem import Problem
from skippy.errors import ProblemError
from skippy.stores.problems import combine, read_problems

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
    second = write(tmp_path / "b.jsonl", [{"question": "What is  6 times 7?", "target": "42"}])
    found = read_problems(f"{first},{second}")
    assert len(found.problems) == 2
    assert found.duplicates == 1
    assert len(read_problems(first).problems) == 2
    assert read_problems(first).duplicates == 0


def test_one_question_with_two_answers_is_refused():
    with pytest.raises(ProblemError, match="two answers"):
        combine("x", [Problem("a", "Same?", 1), Problem("b", "Same? ", 2)])


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
    for switch in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(switch, True)  # the environment was read at import
    with pytest.raises(ProblemError, match="cannot be loaded") as refusal:
        read_problems("math-ai/aime25")
    assert "local file" in refusal.value.next_step


def test_the_digest_sees_answers_and_order():
    one, two = Problem("a", "A?", 1), Problem("b", "B?", 2)
    assert combine("x", [one, two]).digest == combine("y", [one, two]).digest
    assert len(combine("x", [one, two]).digest) == len(one.hash) == 16
    assert combine("x", [one, two]).digest != combine("x", [two, one]).digest
    for other in (Problem("b", "B?", 3), Problem("b", "C?", 2)):
        assert combine("x", [one, other]).digest != combine("x", [one, two]).digest


def test_limit_cuts_and_an_empty_set_is_refused():
    problems = [Problem(str(n), f"{n}?", n) for n in range(5)]
    assert len(combine("x", problems, limit=3).problems) == 3
    with pytest.raises(ProblemError, match="empty"):
        combine("x", [])


def test_columns_are_found_in_any_case(tmp_path):
    row = {"ID": "2024-I-1", "Problem": "What is 6 times 7?", "Solution": "It is 42.", "Answer": 42}
    assert read_problems(write(tmp_path / "x.jsonl", [row])).problems[0].id == "x.jsonl/2024-I-1"
    assert read_problems(write(tmp_path / "x.parquet", [row])).problems[0].gold == 42


def test_every_config_of_a_data_set_is_read(monkeypatch):
    parts = {
        "AIME2025-I": [{"question": "What is 6 times 7?", "answer": "42"}],
        "AIME2025-II": [{"question": "What is 1 plus 1?", "answer": "2"}],
    }
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda name, token: list(parts))
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, token: {"test": parts[config]})
    found = read_problems("opencompass/AIME2025")
    assert [problem.gold for problem in found.problems] == [42, 2]
    assert found.is_aime


def test_a_single_foreign_source_makes_it_no_aime(tmp_path, monkeypatch):
    rows = [{"question": "What is 2 plus 2?", "answer": "4"}]
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda name, token: ["default"])
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, token: {"test": rows})
    own = write(tmp_path / "own.jsonl", [{key: row[key] for key in ("problem", "answer")} for row in ROWS])
    found = read_problems(f"math-ai/aime25,{own}")
    assert [problem.id for problem in found.problems] == ["math-ai/aime25/1", "own.jsonl/1", "own.jsonl/2"]
    assert not found.is_aime


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"problem": "Torn?", "ans', "row 4"),
        ('{"problem": "Null?", "answer": null}', "row 4"),
        ('{"problem": "Missing?"}', "row 4"),
        ('["a list"]', "row 4"),
    ],
)
def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path, line, found):
    good = [json.dumps(row) for row in ROWS]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([good[0], "", good[1], line]) + "\n")
    with pytest.raises(ProblemError) as refusal:
        read_problems(str(path))
    assert found in f"{refusal.value.where} {refusal.value.found}"


def test_a_null_answer_does_not_turn_its_neighbours_into_floats(tmp_path):
    """The first row was refused, for 42.0, where the second had the fault."""
    rows = [{"problem": "A?", "answer": 42}, {"problem": "B?", "answer": None}]
    with pytest.raises(ProblemError, match="not an integer") as refusal:
        read_problems(write(tmp_path / "x.jsonl", rows))
    assert "row 2" in refusal.value.where


def test_family_and_level_may_be_missing_here_and_there(tmp_path):
    rows = [
        {"problem": "A?", "answer": 1, "family": "sums", "level": 3},
        {"problem": "B?", "answer": 2},
        {"problem": "C?", "answer": 3, "family": None, "level": None},
    ]
    for suffix in (".jsonl", ".json"):
        found = read_problems(write(tmp_path / f"x{suffix}", rows)).problems
        assert [(p.family, p.level) for p in found] == [("sums", 3), ("", 0), ("", 0)]


def test_a_byte_order_mark_and_capitals_in_the_suffix_do_no_harm(tmp_path):
    content = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "X.JSONL").write_bytes(b"\xef\xbb\xbf" + content.encode())
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + b"problem,answer\nWhat is 6 times 7?,042\n")
    assert len(read_problems(str(tmp_path / "X.JSONL")).problems) == 2
    assert read_problems(str(tmp_path / "x.csv")).problems[0].gold == 42
