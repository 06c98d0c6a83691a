"""Who has a place for a bias of attention, and which engines read it there. No torch: tables and what they refuse.

A bias on `o_proj` or `v_proj` adds a constant to the residual stream at every position (MATH §11), so a steered model
can be a plain checkpoint, where its architecture has such a bias. Two things go wrong in silence: transformers drops
the biases of a checkpoint whose config has the switch off, and vLLM drops those of `o_proj`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skippy.errors import BackendError, CheckpointError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
BLOCK, ENDING = ".self_attn.", ".bias"


@dataclass(frozen=True)
class BiasSwitch:
    """One family's place for biases: the field of its text config that turns them on, and the projections it gives one.

    `field` is empty where they are always on.
    """

    field: str
    kinds: tuple[str, ...]


SWITCHES: Mapping[str, BiasSwitch] = {
    **dict.fromkeys(("qwen3_vl", "qwen3", "llama", "gemma"), BiasSwitch("attention_bias", ATTENTION)),
    "qwen2": BiasSwitch("", ("q_proj", "k_proj", "v_proj")),
}
NORMED = "a norm after attention rescales whatever a bias adds, so it is no constant shift"
WITHOUT: Mapping[str, str] = {
    "gemma2": NORMED,
    "gemma3_text": NORMED,
    "mistral": "its attention has no biases",
    "phi3": "its attention has no biases",
}
"""Families that cannot carry one, and why."""

ENGINES: Mapping[str, tuple[str, ...]] = {
    "transformers": ATTENTION,
    "sglang": ATTENTION,
    "vllm": ("q_proj", "k_proj", "v_proj"),
}
"""Engine → the projections whose biases it reads; vLLM reads no bias of `o_proj` and says nothing."""


def kind_of(key: str) -> str:
    """The projection that a tensor belongs to."""
    return key.rsplit(".", 2)[-2]


def require_switched_on(where: str, config: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse a checkpoint that stores biases of attention which its config switches off.

    Raises:
        CheckpointError: transformers would drop them with one line in its log.
    """
    switch = SWITCHES.get(str(config.get("model_type")), BiasSwitch("", ()))
    text = config.get("text_config")
    if not switch.field or (text if isinstance(text, Mapping) else config).get(switch.field):
        return
    dropped = [key for key in keys if BLOCK in key and key.endswith(ENDING) and kind_of(key) in switch.kinds]
    if dropped:
        raise CheckpointError(
            "The checkpoint stores biases that its config switches off: they would be dropped in silence.",
            where=f"{dropped[0]} and {len(dropped) - 1} more in {where}",
            expected=f"{switch.field}: true in config.json",
            found=f"{switch.field} is false or not there",
            next_step=f"set {switch.field} to true, or merge again",
        )


def find_switch(family: str, kinds: Iterable[str]) -> BiasSwitch:
    """The switch of a family that has a place for biases of these projections.

    Raises:
        CheckpointError: it has none.
    """
    wanted = sorted(set(kinds))
    switch = SWITCHES.get(family)
    if switch is not None and set(wanted) <= set(switch.kinds):
        return switch
    reason = WITHOUT.get(family, "it is not known whether its attention has biases")
    if switch is not None:
        reason = f"its attention has biases of {', '.join(switch.kinds)} only"
    able = sorted(name for name, each in SWITCHES.items() if set(wanted) <= set(each.kinds))
    raise CheckpointError(
        f"Models of the family {family} have no place for a bias of {', '.join(wanted)}: {reason}.",
        where="config.json, model_type",
        expected="one of " + ", ".join(able)
        if able
        else "q_proj, k_proj, v_proj or o_proj of a known family",
        found=family,
        next_step="steer with another variant (v6-v steers v_proj), or use a base of one of these families",
    )


def engines_that_carry(kinds: Iterable[str]) -> tuple[str, ...]:
    """The engines that read biases of all these projections; all of them where there is none."""
    wanted = set(kinds)
    return tuple(engine for engine, read in ENGINES.items() if wanted <= set(read))


def describe_engines(kinds: Iterable[str]) -> str:
    """What a card says of biases of these projections: who reads them, and who would serve the base in silence."""
    wanted = sorted(set(kinds))
    able = engines_that_carry(wanted)
    unable = [engine for engine in ENGINES if engine not in able]
    said = f"a bias of {', '.join(wanted)} is read by {', '.join(able)}"
    return said + (f"; {', '.join(unable)} would answer as the base does" if unable else "")


def require_carried(kinds: Iterable[str], engine: str, where: str) -> None:
    """Refuse an engine that would serve a steered model as its base, without a word.

    Raises:
        BackendError: it does not read one of them.
    """
    wanted = sorted(set(kinds))
    lost = [kind for kind in wanted if kind not in ENGINES[engine]]
    if lost:
        raise BackendError(
            f"{engine} does not read the bias of {', '.join(lost)}: it would answer as the base does, and say nothing.",
            where=where,
            expected="an engine that carries it: " + ", ".join(engines_that_carry(wanted)),
            found=engine,
            next_step="pass -P backend=transformers, or steer v_proj: the variant v6-v",
        )
