"""Every tag of ours is spelled once in the package, and reads back as what it is."""

import ast
from pathlib import Path

import pytest

from skippy.tracking.tags import CLAIM_PREFIX, LINK_PREFIX, Tag, link_tag, tag_named

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "skippy" / "tracking" / "tags.py"
SOURCES = [path for path in sorted((ROOT / "skippy").rglob("*.py")) if path != TABLE]


def spelled(source: str) -> set[str]:
    """Literals of a source that name a tag of ours, f-strings that put one together included."""
    names = set(Tag) | {LINK_PREFIX, CLAIM_PREFIX}
    words = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    found = {word for word in words if isinstance(word, str) and word in names}
    return found | {word for word in words if isinstance(word, str) and is_run_link(word)}


def is_run_link(word: str) -> bool:
    return word.startswith(LINK_PREFIX) and word.endswith("_run") and " " not in word


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_spells_a_tag(path):
    assert spelled(path.read_text()) == set()


@pytest.mark.parametrize(
    "source",
    ['tags["skippy.seed"]', 'f"skippy.{name}"', 'tags.get("skippy.svd_run")', '"skippy.claim." + name'],
)
def test_a_spelled_tag_is_seen(source):
    """The twin."""
    assert spelled(source)


@pytest.mark.parametrize(
    "source", ['"skippy.stages.svd"', '"weights/skippy.json"', '"see skippy.seed there"']
)
def test_module_and_file_names_are_no_tags(source):
    assert not spelled(source)


def test_a_tag_is_its_name_and_reads_its_type():
    assert f"{Tag.SEED}" == Tag.SEED == "skippy.seed"
    assert {Tag.SEED: "1"} == {"skippy.seed": "1"}
    tags = {
        "skippy.attempt": "3",
        "skippy.git_dirty": "true",
        "skippy.eval_runs": "a,b",
        "skippy.k": "energy:0.5",
    }
    assert Tag.ATTEMPT.read(tags) == 3
    assert Tag.GIT_DIRTY.read(tags) is True
    assert Tag.EVAL_RUNS.read(tags) == ("a", "b")
    assert Tag.K.read(tags) == "energy:0.5"
    assert Tag.ERROR.read(tags) is None, "a run of an earlier version may lack it"
    assert tag_named("seed") is Tag.SEED
    with pytest.raises(ValueError, match="sead"):
        tag_named("sead")


def test_links():
    assert link_tag("svd") == link_tag("svd_run") == link_tag("skippy.svd_run") == "skippy.svd_run"


def test_the_contracts_names_are_kept():
    """Other programs read these."""
    contract = ["stage", "variant", "base_digest", "character", "code_version", "git_dirty"]
    assert {f"skippy.{name}" for name in contract} <= set(Tag)
