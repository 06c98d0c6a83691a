"""The import law of the house, read from the source: who may import whom, and who alone may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPEN_TO_ALL = {"errors", "redaction", "words"}

# Layer → the skippy layers it may import, besides itself.
LAW: dict[str, set[str]] = {
    "redaction": set(),
    "errors": set(),
    "words": set(),
    "progress": set(),
    "core": set(),
    "results": {"core"},
    "extras": set(),
    "options": set(),
    "patterns": set(),
    "yaml_nodes": {"patterns"},
    "presets": {"core", "options", "yaml_nodes"},
    "parameters": {"core", "options", "presets"},
    "config": {"core", "options", "presets", "parameters"},
    "commands": {"config"},
    "models": {"core", "progress"},
    "stores": {"core", "patterns", "progress"},
    "tracking": {"core"},
    "characters": {"core", "patterns", "yaml_nodes"},
    "lab": {"core", "models", "characters", "progress"},
    "resolve": {"core", "models", "stores", "tracking", "characters", "lab", "presets"},
    "evaluation": {
        *("commands", "core", "models", "stores", "tracking", "characters"),
        *("resolve", "lab", "results", "progress", "extras"),
    },
    "report": {"core", "results"},
    "training": {
        *("core", "models", "stores", "tracking", "characters", "resolve", "progress", "presets"),
    },
    "studies": {
        *("core", "models", "stores", "tracking", "characters", "resolve", "evaluation", "training"),
        *("report", "progress", "presets", "yaml_nodes"),
    },
    "serving": {
        *("core", "models", "stores", "tracking", "characters", "resolve", "results", "progress", "extras"),
    },
    "stages": {
        *("config", "options", "commands", "core", "models", "stores", "tracking", "characters"),
        *("lab", "resolve", "report", "results", "training", "evaluation", "studies", "serving", "progress"),
        "presets",
    },
    "terminal": {"core", "tracking", "resolve", "serving"},
    "server": set(),
    "jobs": set(),
    "upkeep": {"core", "stores", "tracking", "resolve", "progress"},
    "entrypoints": {
        "stages",
        "config",
        "options",
        "parameters",
        "terminal",
        "upkeep",
        "server",
        "jobs",
        "serving",
    },
}
ONLY_IN = {"mlflow": "tracking", "trl": "training"}
STAGES = {
    "svd",
    "subspace",
    "train",
    "merge",
    "evaluate",
    "compare",
    "promote",
    "pipeline",
    "study",
    "paper",
    "serve",
}
IMPURE = {
    "os",
    "pathlib",
    "logging",
    "time",
    "datetime",
    "random",
    "json",
    "io",
    "tempfile",
    "subprocess",
    "shutil",
}


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] == "entrypoints" else parts[1].removesuffix(".py")


def imports_of(source: str, package: str = "") -> set[str]:
    """Dotted names that a source imports; relative imports are resolved against `package`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                prefix = ".".join([*base, prefix]).rstrip(".")
            names |= {prefix, *(f"{prefix}.{alias.name}" for alias in node.names)}
    return names


def violations(layer: str, names: set[str], module: str = "") -> list[str]:
    """What in `names` the law forbids to a module of `layer`."""
    found = []
    for name in names:
        top, _, rest = name.partition(".")
        if top == "skippy" and rest:
            other = rest.split(".")[0]
            if other != layer and other not in LAW[layer] | OPEN_TO_ALL:
                found.append(f"{layer} imports {name}")
            is_stage = layer == "stages" and other == "stages" and module in STAGES
            if is_stage and set(rest.split(".")[1:2]) & (STAGES - {module}):
                found.append(f"stage {module} imports stage {name}")
        if top == "entrypoints" and layer != "entrypoints":
            found.append(f"{layer} imports {name}")
        if top in ONLY_IN and layer != ONLY_IN[top]:
            found.append(f"{layer} imports {name}: only {ONLY_IN[top]} may")
        if layer == "core" and top in IMPURE:
            found.append(f"core imports {name}: core is pure")
    return found


SOURCES = sorted([*ROOT.glob("skippy/**/*.py"), *ROOT.glob("entrypoints/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_law(path: Path) -> None:
    if path == ROOT / "skippy" / "__init__.py":
        assert not imports_of(path.read_text())
        return
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert violations(layer_of(path), imports_of(path.read_text(), package), path.stem) == []


def modules_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, functions' own imports included."""
    return {
        name: {found for found in imports_of(source, name.rpartition(".")[0]) if found in sources}
        for name, source in sources.items()
    }


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        for other in () if name in done else sorted(graph[name]):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}
    assert cycle_in(modules_of({name: path.read_text() for name, path in names.items()})) == []


def test_a_cycle_would_be_found() -> None:
    sources = {"a.b": "from a.c import x", "a.c": "def f():\n    from a.b import y", "a.d": "import a.b"}
    assert cycle_in(modules_of(sources)) == ["a.b", "a.c", "a.b"]


def test_the_folder_of_stages_holds_stages_alone() -> None:
    """`runner` starts them; everything that stages share lives in a room below."""
    files = {path.stem for path in (ROOT / "skippy" / "stages").glob("*.py")} - {"__init__", "runner"}
    assert files == STAGES


def test_packages_do_not_re_export() -> None:
    for path in [*ROOT.glob("skippy/**/__init__.py"), ROOT / "entrypoints" / "__init__.py"]:
        if path.parent.name not in {"problems", "chat"}:
            assert not imports_of(path.read_text()), f"{path} imports: import from the module instead"


@pytest.mark.parametrize(
    ("layer", "source", "module"),
    [
        ("core", "import logging", ""),
        ("core", "from skippy.models import targets", ""),
        ("models", "from skippy.stores.samples import Sample", ""),
        ("stages", "import mlflow", ""),
        ("stages", "from trl import GRPOTrainer", ""),
        ("stages", "from skippy.stages.svd import run", "train"),
        ("report", "from skippy.stores import samples", ""),
        ("entrypoints", "from skippy.tracking.runs import Tracker", ""),
        ("training", "from skippy.stages import svd", ""),
        ("training", "from skippy.evaluation import suites", ""),
        ("evaluation", "from skippy.training import plan", ""),
        ("evaluation", "from skippy.report import page", ""),
        ("resolve", "from skippy.evaluation import suites", ""),
    ],
)
def test_the_law_can_be_broken(layer: str, source: str, module: str) -> None:
    assert violations(layer, imports_of(source), module)


def test_core_keeps_no_global_random_state() -> None:
    """Random numbers in core come from an explicit generator: no manual_seed on torch or numpy itself."""
    for path in ROOT.glob("skippy/core/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                assert called not in {"torch.manual_seed", "np.random.seed", "numpy.random.seed"}, path
                if called in {"torch.randn", "torch.rand", "torch.randint", "torch.randperm"}:
                    assert any(word.arg == "generator" for word in node.keywords), f"{path}: {called}"
