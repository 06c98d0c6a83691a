"""The hyperparameters of methods that are not GRPO: a frozen dataclass each, a section of a preset each.

A preset is a mapping of GRPO's settings; beside them it may have a section by the name of a method, `mask:` for
example. A person sets single ones with `settings=mask.rho=0.2,mask.rule=wanda`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from skippy.core.variants import Variant
from skippy.errors import ConfigError
from skippy.options import option, parse_config, suggest
from skippy.presets.reading import read_section
from skippy.presets.steering import SteerSettings
from skippy.words import split_list

MASK_RULES = ("c-relative", "wanda", "c-sparse")


@dataclass(frozen=True)
class MaskSettings:
    """Which weights go."""

    rule: str = option("c-relative", "by which score weights are chosen", choices=MASK_RULES)
    rho: float = option(0.1, "share of each output row that goes", above=0, below=1)
    projected: bool = option(False, "keep the top-k singular triples exactly: P_L ΔW P_R in place of ΔW")
    targets: str = option(
        "all", "projections that are masked: attention, mlp or all", choices=("all", "attention", "mlp")
    )
    seed: int = option(42, "seed of the half split", minimum=0)


METHODS: Mapping[str, type] = {"mask": MaskSettings, "steer": SteerSettings}
"""Method → its settings, in the order of the issue that asked for them."""


def choose_method_settings(preset: str, variant: Variant, text: str, seed: int) -> Any:
    """The settings of a variant's method: defaults, then the preset's section, the person's own, what it implies.

    Args:
        text: `method.name=value`, comma-separated; those of other methods are for other arms.

    Raises:
        ConfigError: an unknown method or name, or a value outside its limits.
    """
    kind = METHODS[variant.method]
    own = parse_settings(text).get(variant.method, {})
    return replace(
        read_section(preset, variant.method, kind), **own, **dict.fromkeys(["seed"], seed), **variant.implies
    )


def parse_settings(text: str) -> dict[str, dict[str, Any]]:
    """Method → name → typed value.

    Raises:
        ConfigError: a part that is no `method.name=value`, or an unknown method or name, or a wrong value.
    """
    texts: dict[str, dict[str, str]] = {}
    for part in split_list(text, "settings"):
        name, equals, value = part.partition("=")
        method, dot, field = name.strip().partition(".")
        if not (equals and dot) or method not in METHODS:
            raise ConfigError(
                "This is no setting of a method.",
                where=f"settings={text}",
                expected="METHOD.NAME=VALUE, comma-separated, with METHOD one of " + ", ".join(METHODS),
                found=repr(part),
                next_step=suggest(method, METHODS) or "pass for example settings=mask.rho=0.2",
            )
        texts.setdefault(method, {})[field] = value
    found = {}
    for method, values in texts.items():
        parsed: Any = parse_config(METHODS[method], values)
        found[method] = {
            item.name: getattr(parsed, item.name) for item in fields(parsed) if item.name in values
        }
    return found
