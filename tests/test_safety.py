"""What comes from outside cannot run or end the process: no pickles, no code of a checkpoint, no depth that kills."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skippy.characters.loader import load_character
from skippy.characters.own_prompts import read_own_prompts
from skippy.config import CONFIGS
from skippy.errors import ConfigError, SkippyError
from skippy.lab.paths import LAB_ADAPTER, LAB_CHECKPOINT
from skippy.models.loading import load_tokenizer
from skippy.options import parse_config
from skippy.presets.reading import read_preset
from skippy.report.record import ReportRecord
from skippy.resolve.bases import find_lineage
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import INDEX_FILE, SINGLE_FILE, Checkpoint
from skippy.stores.problems import read_problems
from skippy.stores.projectors import read_projectors
from skippy.stores.references import load_reference
from skippy.stores.samples import read_samples
from skippy.studies.plan import read_plan

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("skippy/**/*.py"), *ROOT.glob("entrypoints/*.py")])
THAT_RUN_WHAT_THEY_READ = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
THAT_UNPACK = {"tarfile", "zipfile", "zipimport"}
FORBIDDEN_CALLS = {
    "torch.load",
    "np.load",
    "numpy.load",
    "shutil.unpack_archive",
    "yaml.load",
    "yaml.unsafe_load",
}

DEEP = 100_000
DEEP_JSON = '{"a":' * DEEP + "1" + "}" * DEEP
DEEP_LIST = "[" * DEEP + "]" * DEEP
DEEP_FLOW = "a: " + DEEP_LIST
DEEP_BLOCK = "\n".join(" " * depth + "a:" for depth in range(2000))


def dangers(source: str) -> set[str]:
    """What in a source would run, or write, what a file says."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            )
            found |= {name.split(".")[0] for name in names} & (THAT_RUN_WHAT_THEY_READ | THAT_UNPACK)
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & FORBIDDEN_CALLS
            found |= {"trust_remote_code" for word in node.keywords if word.arg == "trust_remote_code"}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & {"trust_remote_code", "--trust-remote-code"}
    return found


def test_no_source_opens_a_pickle_unpacks_an_archive_or_trusts_code_of_a_checkpoint() -> None:
    assert {str(path): dangers(path.read_text()) for path in SOURCES if dangers(path.read_text())} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("from zipfile import ZipFile", "zipfile"),
        ("torch.load(path)", "torch.load"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("command = ['vllm', '--trust-remote-code']", "--trust-remote-code"),
    ],
)
def test_such_a_source_would_be_found(source: str, found: str) -> None:
    assert dangers(source) == {found}


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = shutil.copytree(LAB_CHECKPOINT, tmp_path / "base")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["own.Own", None]}})
    )
    assert load_tokenizer(folder).chat_template
    assert not (tmp_path / "ran").exists()


def beside(folder: Path, name: str, text: str) -> Path:
    """A copy of the lab's checkpoint in which one file has another text."""
    copied = shutil.copytree(LAB_CHECKPOINT, folder / "base")
    (copied / name).write_text(text)
    return copied


def alone(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder


def sharded(folder: Path, text: str) -> Path:
    copied = beside(folder, INDEX_FILE, text)
    (copied / SINGLE_FILE).rename(copied / "model-00001-of-00001.safetensors")
    return copied


def manifest(folder: Path, weights: str) -> Path:
    (folder / weights).write_bytes(b"")
    return alone(folder, "manifest.json", DEEP_JSON)


def adapter(folder: Path, name: str) -> Path:
    copied = shutil.copytree(LAB_ADAPTER, folder / "adapter")
    return alone(copied, name, DEEP_JSON)


TOO_DEEP: dict[str, Callable[[Path], object]] = {
    "character, flow": lambda at: load_character(str(alone(at, "c.yaml", DEEP_FLOW) / "c.yaml")),
    "character, block": lambda at: load_character(str(alone(at, "c.yaml", DEEP_BLOCK) / "c.yaml")),
    "preset": lambda at: read_preset(str(alone(at, "p.yaml", DEEP_FLOW) / "p.yaml")),
    "plan": lambda at: read_plan(str(alone(at, "p.yaml", DEEP_BLOCK) / "p.yaml")),
    "prompts": lambda at: read_own_prompts(str(alone(at, "p.yaml", DEEP_FLOW) / "p.yaml")),
    "config.json": lambda at: Checkpoint.open(beside(at, "config.json", DEEP_JSON)),
    "index": lambda at: Checkpoint.open(sharded(at, DEEP_JSON)),
    "adapter_config.json": lambda at: read_adapter(adapter(at, "adapter_config.json")),
    "card of an adapter": lambda at: read_adapter(adapter(at, "skippy.json")),
    "card of a merge": lambda at: verify_checkpoint(alone(at, "skippy.json", DEEP_JSON)),
    "tokenizer_config.json": lambda at: load_tokenizer(beside(at, "tokenizer_config.json", DEEP_JSON)),
    "problems, JSON": lambda at: read_problems(str(alone(at, "p.json", DEEP_LIST) / "p.json")),
    "problems, lines": lambda at: read_problems(str(alone(at, "p.jsonl", DEEP_JSON + "\n") / "p.jsonl")),
    "samples": lambda at: list(read_samples(alone(at, "s.jsonl", DEEP_JSON + "\n") / "s.jsonl")),
    "projectors": lambda at: read_projectors(manifest(at, "projectors.safetensors"), base_digest="x"),
    "reference": lambda at: load_reference(
        manifest(at, "reference.safetensors"), base_digest="x", character_digest="y"
    ),
    "report": lambda at: ReportRecord.from_json(DEEP_JSON.encode(), "a report"),
}


@pytest.mark.parametrize("kind", TOO_DEEP)
def test_a_document_nested_a_hundred_thousand_times_is_one_message(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SkippyError) as refusal:
        TOO_DEEP[kind](tmp_path)
    assert refusal.value.where


def test_a_card_that_cannot_be_read_tells_no_lineage(tmp_path: Path) -> None:
    assert find_lineage(Checkpoint.open(beside(tmp_path, "skippy.json", DEEP_JSON))) == "lab", "by its bytes"


@pytest.mark.parametrize(
    "entry", [3, None, {"file": 1}, "../x.safetensors", "/x.safetensors", "a/b.safetensors"]
)
def test_an_index_names_files_beside_it_and_nothing_else(entry: object, tmp_path: Path) -> None:
    with pytest.raises(SkippyError, match="names of safetensors files beside the index"):
        Checkpoint.open(sharded(tmp_path, json.dumps({"weight_map": {"a": entry}})))


@pytest.mark.parametrize("stage", [name for name, config in CONFIGS.items() if hasattr(config(), "seed")])
@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64, 10**30])
def test_a_seed_that_numpy_would_refuse_is_refused_at_once(stage: str, seed: int) -> None:
    with pytest.raises(ConfigError, match="less than 4294967296"):
        parse_config(CONFIGS[stage], {"seed": str(seed)})


@pytest.mark.parametrize("stage", [name for name, config in CONFIGS.items() if hasattr(config(), "seed")])
def test_the_largest_seed_is_taken(stage: str) -> None:
    assert parse_config(CONFIGS[stage], {"seed": str(2**32 - 1)}).seed == 2**32 - 1
