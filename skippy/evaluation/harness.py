"""EleutherAI's lm-evaluation-harness on the weights of an evaluation, its figures beside ours.

Not a stage. The harness gets a model that we loaded: its own loader takes any unknown architecture for a plain
causal one, and a vision-language checkpoint is none.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skippy.errors import ConfigError
from skippy.extras import import_extra
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import template_without_thinking
from skippy.words import split_list

EXTRA, PARAMETER = "harness", "lm_eval"
BATCH_SIZE = 8
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Harness:
    """The harness with tasks that exist and whose data could be loaded."""

    tasks: tuple[str, ...]  # names, or paths of task files
    api: Any  # module `lm_eval`
    wrapper: Any  # its class around a loaded model
    manager: Any  # its task manager


def open_harness(tasks: str) -> Harness:
    """Import the harness and load the tasks with their data, so that a bad name or no network shows at once.

    Args:
        tasks: names of tasks or groups, or paths of task files, comma-separated.

    Raises:
        ConfigError: it is not installed, or a task is unknown or cannot be loaded.
    """
    names = split_list(tasks, PARAMETER)
    api, library, models = (
        import_extra(module, extra=EXTRA, parameter=PARAMETER)
        for module in ("lm_eval", "lm_eval.tasks", "lm_eval.models.huggingface")
    )
    manager = library.TaskManager()
    unknown = [name for name in names if name not in manager.all_tasks and not Path(name).is_file()]
    if unknown or not names:
        near = [close for name in unknown for close in difflib.get_close_matches(name, manager.all_tasks)]
        raise ConfigError(
            "The harness has no such task.",
            where=f"parameter {PARAMETER}",
            expected="names of its tasks or groups, or task files"
            + (f"; near: {', '.join(near)}" if near else ""),
            found=", ".join(unknown) or repr(tasks),
            next_step="correct the name; `lm-eval ls tasks` lists them all",
        )
    try:
        manager.load(list(names))
    except Exception as error:
        # Tasks run code of their own and fetch data sets: what they raise is of no common type.
        raise ConfigError(
            "A task of the harness cannot be loaded.",
            where=f"parameter {PARAMETER}={tasks}",
            expected="its data set on this machine or within reach",
            found=f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}",
            next_step="check the network, or leave the task out",
        ) from error
    return Harness(names, api, models.HFLM, manager)


def run_harness(harness: Harness, weights: Path, *, device: str, limit: int, seed: int) -> dict[str, Any]:
    """The harness's whole result as plain data; its chat template is applied where the tokenizer has one."""
    tokenizer: Any = load_tokenizer(weights)
    if tokenizer.chat_template:
        tokenizer.chat_template = template_without_thinking(tokenizer)
    model = load_model(weights, device=device)
    found = harness.api.simple_evaluate(
        model=harness.wrapper(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE),
        tasks=list(harness.tasks),
        task_manager=harness.manager,
        limit=limit or None,
        log_samples=False,
        apply_chat_template=bool(tokenizer.chat_template),
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return plain(found or {})


def harness_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """`lm_eval/<task>/<metric>`: its `metric,filter` is named `metric.filter`, or `metric` where none filters."""
    metrics = {}
    for task, figures in results.get("results", {}).items():
        for key, value in figures.items():
            name, comma, filtering = key.partition(",")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if comma and is_number and math.isfinite(value):
                metric = name if filtering == "none" else f"{name}.{filtering}"
                metrics[f"lm_eval/{_legal(task)}/{_legal(metric)}"] = float(value)
    return metrics


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: what is no number, text, list or mapping becomes its text, NaN null."""
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(member) for member in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _legal(name: str) -> str:
    return _ILLEGAL.sub("_", name).strip("_.") or "unnamed"
