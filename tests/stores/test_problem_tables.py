"""Tables as people have them: read where they say one thing, refused by row or column where they say two."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skippy.core.problem import AIME_RULE, Problem, parse_rule
from skippy.errors import ProblemError
from skippy.stores.problems import combine, read_problems

QUESTION = "How many integers from 1 to 226 are odd?"
VERL = {
    "data_source": "math_dapo",
    "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": QUESTION}],
    "reward_model": {"ground_truth": "113", "style": "rule"},
    "extra_info": {"index": 7},
}
PAIR = {"problem": QUESTION, "answer": "113"}
LINE = json.dumps(PAIR)

READ: dict[str, tuple[str, str | bytes]] = {
    "semicolons": ("x.csv", f'problem;answer\n"{QUESTION}";113\n'),
    "tabs": ("x.tsv", f"problem\tanswer\n{QUESTION}\t113\n"),
    "tabs in a csv": ("x.csv", f"problem\tanswer\n{QUESTION}\t113\n"),
    "bars": ("x.csv", f"answer|problem\n113|{QUESTION}\n"),
    "a float of pandas": ("x.csv", f'problem,answer\n"{QUESTION}",113.0\n'),
    "leading zeros": ("x.csv", f'problem,answer\n"{QUESTION}",0113\n'),
    "byte order mark": ("x.csv", b"\xef\xbb\xbf" + f'problem,answer\r\n"{QUESTION}",113\r\n'.encode()),
    "UTF-16": ("x.csv", f'problem,answer\r\n"{QUESTION}",113\r\n'.encode("utf-16")),
    "a line in a quoted field": ("x.csv", f'problem,answer\n"{QUESTION}\n",113\n'),
    "blank lines": ("x.csv", f'\n\nproblem,answer\n\n"{QUESTION}",113\n\n'),
    "spaces in the header": ("x.csv", f'problem , answer\n"{QUESTION}",113\n'),
    "upper case": ("X.CSV", f'Problem,ANSWER\n"{QUESTION}",113\n'),
    "verl": ("x.jsonl", json.dumps(VERL)),
    "lines in .json": ("x.json", f"{LINE}\n{LINE}\n"),
    "a list in .jsonl": ("x.jsonl", json.dumps([PAIR], indent=2)),
    "one object": ("x.json", json.dumps(PAIR, indent=2)),
    "an object around a list": ("x.json", json.dumps({"data": [PAIR]})),
    "CRLF and blank lines": ("x.jsonl", f"\r\n{LINE}\r\n\r\n".encode()),
    "BOM of JSON": ("x.jsonl", b"\xef\xbb\xbf" + LINE.encode()),
    "a list of one": ("x.jsonl", json.dumps({"problem": QUESTION, "answer": ["113"]})),
    "a number": ("x.jsonl", json.dumps({"problem": QUESTION, "answer": 113.0})),
    "GSM8K": ("x.jsonl", json.dumps({"question": QUESTION, "answer": "226 / 2 = 113\n#### 113"})),
    "two columns that agree": ("x.jsonl", json.dumps({**PAIR, "target": "113"})),
    "a message in parts": (
        "x.jsonl",
        json.dumps({**PAIR, "problem": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]}),
    ),
}
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "unquoted commas": (
        "x.csv",
        "problem,answer\nEvaluate f(1,2,3) where f is the sum of squares.,14\n",
        "row 1",
    ),
    "a header that stands twice": (
        "x.csv",
        f'problem,answer,answer\n"{QUESTION}",113,112\n',
        "answer, answer",
    ),
    "two cases of a header": ("x.csv", f'problem,Answer,answer\n"{QUESTION}",113,112\n', "Answer, answer"),
    "two cases of a key": ("x.jsonl", json.dumps({**PAIR, "Answer": "112"}), "Answer"),
    "two cases in two rows": ("x.jsonl", f'{LINE}\n{{"problem": "B?", "Answer": 1}}', "row 2"),
    "a key that stands twice": ("x.jsonl", '{"problem": "A?", "answer": 1, "answer": 2}', "row 1"),
    "columns that disagree": (
        "x.jsonl",
        json.dumps({**PAIR, "target": "112"}),
        "row 1, columns answer, target",
    ),
    "questions that disagree": (
        "x.jsonl",
        json.dumps({**PAIR, "question": "B?"}),
        "row 1, columns problem, question",
    ),
    "an unclosed quotation": ("x.csv", f'problem,answer\n"{QUESTION},113\nB?,1\n', "unexpected end"),
    "an empty cell": ("x.csv", f'problem,answer\n"{QUESTION}",113\nB?\n', "row 2, column answer"),
    "a torn line": ("x.jsonl", f'{LINE}\n{{"problem": ', "row 2"),
    "a fraction": ("x.csv", f'problem,answer\n"{QUESTION}",113.5\n', "row 1, column answer"),
    "two answers": ("x.jsonl", json.dumps({"problem": QUESTION, "answer": [1, 2]}), "row 1, column answer"),
    "no text in the messages": ("x.jsonl", json.dumps({**VERL, "prompt": []}), "row 1, column prompt"),
    "bytes of another encoding": ("x.csv", "problem,answer\n¿Cuántos?,1\n".encode("latin-1"), "x.csv"),
    "deep nesting": ("x.json", "[" * 100_000, "too deeply"),
    "no format": ("x.txt", LINE, ".txt"),
    "not a Parquet": ("x.parquet", b"PAR1 nothing PAR1", "x.parquet"),
}


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("kind", READ)
def test_a_table_that_says_one_thing_is_read(tmp_path: Path, kind: str) -> None:
    found = read_problems(write(tmp_path, *READ[kind]))
    assert [(problem.question, problem.gold) for problem in found.problems] == [(QUESTION, 113)]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_says_two_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, content, named = REFUSED[kind]
    with pytest.raises(ProblemError) as refusal:
        read_problems(write(tmp_path, name, content))
    assert named in str(refusal.value)
    assert refusal.value.expected


def test_half_a_surrogate_pair_is_replaced_and_counted(tmp_path: Path) -> None:
    lines = '{"problem":"bad \\ud83d end","answer":1}\n{"problem":"whole \\ud83d\\ude00","answer":2}'
    found = read_problems(write(tmp_path, "x.jsonl", lines))
    assert [problem.question for problem in found.problems] == ["bad \ufffd end", "whole 😀"]
    assert found.replaced == 1
    found.digest.encode()
    assert read_problems(write(tmp_path, "y.jsonl", LINE)).replaced == 0


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    for part in range(3):
        rows = [{"problem": f"What is {part} plus {n}?", "answer": float(part + n)} for n in range(2)]
        pd.DataFrame(rows).to_parquet(tmp_path / "set" / "data" / f"test-0000{part}-of-00003.parquet")
    (tmp_path / "set" / "README.md").write_text("read me")
    found = read_problems(str(tmp_path / "set"))
    assert [problem.gold for problem in found.problems] == [0, 1, 1, 2, 2, 3]
    assert found.problems[2].id == "set/1 of data/test-00001-of-00003.parquet"
    assert found.label == "set"
    write(tmp_path / "set", "more.csv", "problem,answer\nA?,1\n")
    with pytest.raises(ProblemError, match="no parts of one kind") as refusal:
        read_problems(str(tmp_path / "set"))
    assert "more.csv" in refusal.value.found
    with pytest.raises(ProblemError, match="no parts of one kind"):
        read_problems(str(tmp_path / "set" / ".."))


def test_two_columns_of_a_parquet_with_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pyarrow.array(["A?"]), pyarrow.array([1]), pyarrow.array([2])]
    table = pyarrow.Table.from_arrays(columns, names=["problem", "answer", "answer"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ProblemError, match="twice"):
        read_problems(str(tmp_path / "x.parquet"))


def test_questions_that_differ_in_case_alone_stay_two() -> None:
    upper, lower, other = (
        Problem("a", "Is A a set?", 1),
        Problem("b", "Is a a set?", 2),
        Problem("c", "C?", 3),
    )
    found = combine("x", [upper, lower, other])
    assert [problem.gold for problem in found.problems] == [1, 2, 3]
    assert len(found.gold) == 3
    assert found.duplicates == 0
    assert combine("x", [upper, replace_id(upper), other]).duplicates == 1, "the twin: the same words are one"
    assert combine("x", [lower, other]).problems[0].hash == lower.hash, "alone, a question keeps its old hash"
    assert found.problems[2].hash == other.hash


def replace_id(problem: Problem) -> Problem:
    return Problem("again", problem.question + " ", problem.gold)


@pytest.mark.parametrize(
    "name", ["a,b.jsonl", "50%2F.jsonl", "what?.jsonl", "no#1.jsonl", "ü 🎲.jsonl", "a b.jsonl"]
)
def test_a_path_is_a_path_whatever_it_is_made_of(tmp_path: Path, name: str) -> None:
    found = read_problems(write(tmp_path, name, LINE))
    assert found.problems[0].gold == 113
    assert found.label == name.removesuffix(".jsonl")


@pytest.mark.parametrize("name", ["a\0b.jsonl", "x" * 5000 + ".jsonl", "x" * 5000])
def test_a_name_that_is_no_path_is_one_message(name: str) -> None:
    with pytest.raises(ProblemError):
        read_problems(name)


@pytest.mark.parametrize(
    ("answers", "value", "gold"),
    [
        ("auto", "113", 113),
        ("integer", "12,345", 12345),
        ("integer", -7, -7),
        ("integer", 10**30, 10**30),
        ("number", "3.50", "3.50"),
        ("number", 0.1, "0.1"),
        ("number", "7/2", "7/2"),
        ("number", "\\frac{7}{2}", "\\frac{7}{2}"),
        ("number", 113.0, 113),
        ("math", "x^2 + 1", "x^2 + 1"),
        ("math", "(1, 2)", "(1, 2)"),
    ],
)
def test_the_kind_of_answers_is_a_setting_of_the_set(
    tmp_path: Path, answers: str, value: object, gold: object
) -> None:
    source = write(tmp_path, "x.jsonl", json.dumps({"problem": QUESTION, "answer": value}))
    found = read_problems(source, rule=parse_rule(answers))
    assert found.problems[0].gold == gold
    assert str(found.rule) == answers
    if answers == "auto":
        assert found.rule == AIME_RULE
    elif gold != 113:
        with pytest.raises(ProblemError, match="not an integer 0–999") as refusal:
            read_problems(source)
        assert "answers=integer" in refusal.value.next_step


def test_another_rule_is_another_digest_and_aimes_own_set_has_aimes_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems = [Problem("a", "A?", 1)]
    by_rule = {
        combine("x", [Problem("a", "A?", 1, rule=parse_rule(text))]).digest
        for text in ("auto", "integer", "number", "number:0.01", "math")
    }
    assert len(by_rule) == 5
    assert combine("x", problems).digest in by_rule
    rows = [{"question": "What is 2 plus 2?", "answer": "4"}]
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda name, token: ["default"])
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, token: {"test": rows})
    assert read_problems("math-ai/aime25", rule=parse_rule("integer")).rule == AIME_RULE
    assert read_problems("somebody/own", rule=parse_rule("integer")).rule == parse_rule("integer")


TEXTS = st.text(max_size=8) | st.sampled_from(["113", "1.0", "#### 2"])
KEYS = st.sampled_from(["role", "content", "ground_truth"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["problem", "Problem", "question", "prompt", "answer", "target", "level", "id", "reward_model", ""]
)
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=3)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)))
    | st.text(st.sampled_from('problem,answer;\t|"\n\r\0é{}[]:1'), max_size=60)
    | st.binary(max_size=60),
)
def test_no_table_raises_anything_but_our_own_errors(suffix: str, content: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), f"x{suffix}", content)
        for answers in ("auto", "number", "math"):
            with contextlib.suppress(ProblemError):
                found = read_problems(source, rule=parse_rule(answers))
                assert found.problems
                assert found.digest
