"""Which options of a PEFT LoRA config may be merged: an allow-list, and how the rest of the config is read.

PEFT grows options faster than anybody reads its release notes, and one that is not understood makes a merge wrong
without a sign. So every known option stands here with the values that a merge honours; another value, and an
option that is not here, is refused by name. A null is honoured everywhere: PEFT writes every option that it knows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from skippy.errors import AdapterError
from skippy.patterns import find_hazard

ALL_LINEAR = "all-linear"
# Inits that leave the base weight as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA train against another one.
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
RESAVE = (
    "save the adapter with PEFT's path_initial_model_for_weight_conversion, which makes it an ordinary one"
)
NAMED_IN_ERRORS = 4
OPEN_REPEATS = 4
"""In a pattern over names of modules, which are short: as many as in those that are met."""


def _any(_: Any) -> bool:
    return True


def _off(value: Any) -> bool:
    """Null, false or empty."""
    return value is None or value is False or value in ([], {}, "")


def _null(value: Any) -> bool:
    """PEFT makes a default out of an empty object, so that only null is off."""
    return value is None


def _plain_init(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in PLAIN_INITS)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _names(value: Any) -> bool:
    return isinstance(value, str) or _name_list(value)


def _name_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _layers(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, list) and all(map(_is_integer, value)))


def _ranks(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_integer(each) and each > 0 for each in value.values())


def _alphas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# What is honoured, by option; null always is. Three kinds: read here, without effect on ΔW, and to be off.
OPTIONS: dict[str, Callable[[Any], bool]] = {
    # read: what ΔW is, and where
    "peft_type": lambda value: value == "LORA",
    "r": _any,
    "lora_alpha": _any,
    "use_rslora": _flag,
    "rank_pattern": _ranks,
    "alpha_pattern": _alphas,
    "use_dora": _flag,
    "modules_to_save": _name_list,
    "target_modules": _names,
    "exclude_modules": _names,
    "layers_to_transform": _layers,
    "layers_pattern": _names,
    "init_lora_weights": _plain_init,
    # without effect on ΔW: who trained it, on what, how
    "task_type": _any,
    "auto_mapping": _any,
    "peft_version": _any,
    "base_model_name_or_path": _any,
    "revision": _any,
    "inference_mode": _any,
    "runtime_config": _any,
    "lora_dropout": _any,
    "megatron_core": _any,
    "eva_config": _any,  # how an EVA init is computed
    "qalora_group_size": _any,  # read with use_qalora only
    "merge_weights": _any,  # of 2023: whether to merge while evaluating
    # to be off
    "bias": lambda value: value == "none",
    "lora_bias": _off,
    "fan_in_fan_out": _off,
    "megatron_config": _off,
    "trainable_token_indices": _off,
    "loftq_config": _off,
    "corda_config": _null,
    "lora_ga_config": _null,
    "velora_config": _null,
    "alora_invocation_tokens": _off,
    "use_qalora": _off,
    "monteclora_config": _null,
    "layer_replication": _off,
    "target_parameters": _off,
    "use_bdlora": _null,
    "arrow_config": _null,
    "kasa_config": _null,
    "ensure_weight_tying": _off,
    "enable_lora": _off,  # of 2023: fused projections adapted in part
}


def require_known(config: Mapping[str, Any], where: str) -> None:
    """Refuse an option that is not known, or has a value that a merge does not honour.

    Raises:
        AdapterError: naming every such option.
    """
    wrong = [
        f"{name}={_short(value)}{'' if name in OPTIONS else ' (unknown)'}"
        for name, value in sorted(config.items())
        if value is not None and (name not in OPTIONS or not OPTIONS[name](value))
    ]
    if wrong:
        relative = any(text.startswith("init_lora_weights=") for text in wrong)
        raise AdapterError(
            "The adapter has options that a merge does not honour.",
            where=where,
            expected="null for each of these, or a value that skippy/stores/adapter_options.py lists",
            found=", ".join(wrong),
            next_step=RESAVE if relative else "train the adapter without these options",
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def rank_and_scale(config: Mapping[str, Any], name: str, where: str) -> tuple[int, float]:
    """The rank of one target and its s, after `rank_pattern` and `alpha_pattern`, as PEFT resolves them.

    Raises:
        AdapterError: r or lora_alpha is unusable, or a pattern is no regular expression.
    """
    rank = _by_pattern(config, "rank_pattern", name, config.get("r"), where)
    alpha = _by_pattern(config, "alpha_pattern", name, config.get("lora_alpha"), where)
    if not _is_integer(rank) or rank < 1 or not _is_number(alpha):
        raise AdapterError(
            "The rank or alpha of the adapter is unusable.",
            where=where,
            expected="an integer r of at least 1 and a number lora_alpha",
            found=f"r {rank!r}, lora_alpha {alpha!r}",
            next_step="save the adapter again with PEFT",
        )
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _by_pattern(config: Mapping[str, Any], option: str, name: str, default: Any, where: str) -> Any:
    """The value of the first pattern that matches the end of the name, at a dot; else the default."""
    for pattern, value in (config.get(option) or {}).items():
        if _matches(rf"(?:.*\.)?(?:{pattern})", name, option, where):
            return value
    return default


def _matches(pattern: str, name: str, option: str, where: str) -> re.Match[str] | None:
    """The match of a whole name; the pattern may come from anybody, and must not keep us for ever.

    Raises:
        AdapterError: it is no regular expression, or one whose matching can run away.
    """
    try:
        hazard = find_hazard(pattern, OPEN_REPEATS)
        found = re.fullmatch(pattern, name) if hazard is None else None
    except (re.error, RecursionError, OverflowError) as error:
        hazard = str(error)
    if hazard is not None:
        raise AdapterError(
            "A pattern of the adapter is no regular expression that can be used.",
            where=f"{option} in {where}",
            expected="a regular expression over module names that does not run away",
            found=f"{_short(pattern)}: {hazard}",
            next_step="name the modules one by one in the adapter's config, or save it again with PEFT",
        )
    return found


def is_saved_whole(config: Mapping[str, Any], stem: str) -> bool:
    """Whether a module lies in one of `modules_to_save`: those are replaced, not added to."""
    parts = stem.split(".")
    owners = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return any(owner.endswith(name) for name in config.get("modules_to_save") or () for owner in owners)


def asked_targets(config: Mapping[str, Any], linears: Iterable[str], where: str) -> set[str]:
    """The modules of a base that the config says were adapted, by PEFT's rules."""
    targets = config.get("target_modules")
    if not targets:
        return set()
    names = [name for name in linears if not _is_excluded(config, name, where)]
    if isinstance(targets, str):
        if targets == ALL_LINEAR:
            return {name for name in names if name.rpartition(".")[2] not in ("lm_head", "score")}
        return {name for name in names if _matches(targets, name, "target_modules", where)}
    return {
        name
        for name in names
        if name in targets or (_is_named(name, targets) and _is_chosen_layer(config, name, where))
    }


def _is_named(name: str, ends: Collection[str]) -> bool:
    return any(name == end or name.endswith("." + end) for end in ends)


def _is_excluded(config: Mapping[str, Any], name: str, where: str) -> bool:
    excluded = config.get("exclude_modules") or ()
    if isinstance(excluded, str):
        return bool(_matches(excluded, name, "exclude_modules", where))
    return _is_named(name, excluded) or is_saved_whole(config, name)


def _is_chosen_layer(config: Mapping[str, Any], name: str, where: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = _matches(rf"(?:|.*?\.)(?:{pattern})\.(\d{1, 9})\..*", name, "layers_pattern", where)
        if found:
            return int(found[1]) in ([layers] if isinstance(layers, int) else layers)
    return False


def require_complete(adapted: Collection[str], asked: Collection[str], where: str) -> None:
    """Refuse an adapter that lacks targets which its own config names.

    Raises:
        AdapterError: naming the first of them.
    """
    missing = sorted(set(asked) - set(adapted))
    if missing:
        raise AdapterError(
            "The adapter lacks targets that its own config names.",
            where=where,
            expected=f"factors for all {len(asked)} modules that target_modules reaches in this base",
            found=f"{len(missing)} missing: " + ", ".join(missing[:NAMED_IN_ERRORS]),
            next_step="fetch the adapter again, or save it again with PEFT",
        )
