"""From what is asked for to what makes it: one function a method, found in one table."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from skippy.characters.schema import Character
from skippy.core.problem import Problem
from skippy.core.spectral.rank import parse_rank
from skippy.core.style import rewards
from skippy.core.variants import Method, Variant
from skippy.presets.methods import MaskSettings, choose_method_settings
from skippy.presets.reading import read_preset
from skippy.presets.settings import GrpoSettings
from skippy.resolve.bases import Base
from skippy.resolve.references import FoundReference
from skippy.stores.answers import Answers
from skippy.stores.projector_files import ProjectorSet
from skippy.training.answer_makers import MaskMaker, SteerMaker
from skippy.training.bias_grpo_maker import BiasGrpoMaker
from skippy.training.grpo_maker import GrpoMaker
from skippy.training.making import Maker
from skippy.training.own_rewards import OwnReward, load_own_rewards
from skippy.training.plan import RewardFunction, TrainRequest

logger = logging.getLogger(__name__)

OUR_REWARDS = ("personality", "coherence", "identity")


@dataclass(frozen=True, eq=False)
class Order:
    """What is to be made, of what, and how; the stage fills it in from its parameters and what it found."""

    variant: Variant  # what is made
    base: Base  # what is changed
    character: Character  # what it is changed towards
    seed: int  # of everything random
    device: str = "auto"  # cpu, cuda or auto
    preset: str = "auto"  # name or path; auto: the one of the base's profile
    turned: Mapping[str, Any] = field(default_factory=dict)  # GRPO's settings that the person set
    settings: str = ""  # of other methods, `METHOD.NAME=VALUE`, comma-separated
    k: str = "16"  # protected directions, as the person put it
    rewards: str = ""  # the person's own, as `load_own_rewards` takes them
    is_hardened: bool = True  # whether the character's rewards resist hacking
    judge_url: str = ""  # endpoint of a judge that adds a reward; empty: none
    judge_model: str = ""  # its name there
    draw_problems: Callable[[], Sequence[Problem]] = tuple  # for a share of mathematics, put as `eval` does
    # The rest is None where the method does without it.
    protected: ProjectorSet | None = None  # of what the variant protects, where that is not the top
    projectors: ProjectorSet | None = None  # U, S, V of every target
    reference: FoundReference | None = None  # what the base does under personas
    answers: Answers | None = None  # the base's, under the character's prompt and plain

    @property
    def preset_name(self) -> str:
        """The preset asked for; auto is the one of the base's profile."""
        return self.base.profile.training if self.preset == "auto" else self.preset

    @property
    def method_settings(self) -> Any:
        """Settings of a method that is not GRPO: the preset's section, the person's, what the variant implies."""
        return choose_method_settings(self.preset_name, self.variant, self.settings, self.seed)


def grpo_maker(order: Order) -> GrpoMaker:
    """GRPO by the character's rewards, a judge's and the person's own; the judge is asked once before training."""
    base, character, projectors = order.base, order.character, order.projectors
    settings = grpo_settings(order)
    own = load_own_rewards(order.rewards, taken=(*OUR_REWARDS, "judge", "correctness"))
    functions = {**reward_functions(order), **{each.name: each.function for each in own}}
    return GrpoMaker(
        TrainRequest(
            base_path=base.path,
            base_digest=base.digest,
            base_name=base.public_name,
            variant=order.variant.name,
            k=_rank(order),
            projectors=projectors,
            protected=order.protected,
            prompts=[prompt.text for prompt in character.train_prompts],
            reward_functions=tuple(functions.values()),
            reward_names=tuple(functions),
            rewards_digest=_digest_of_rewards(order, own),
            settings=settings,
            math_problems=list(order.draw_problems()) if settings.math_mix else [],
            device=order.device,
        ),
        order.reference,
    )


def _rank(order: Order) -> int:
    """Directions a target; of a share of energy, the most that a target keeps."""
    k = parse_rank(order.k).k
    if k or order.projectors is None:
        return k
    return max(len(basis.S) for basis in order.projectors.bases.values())


def mask_maker(order: Order) -> MaskMaker:
    """A mask from the base's answers."""
    settings: MaskSettings = order.method_settings
    assert order.answers is not None  # Variant.reads_answers
    return MaskMaker(
        variant=order.variant,
        base=order.base,
        settings=settings,
        answers=order.answers,
        projectors=order.projectors,
        reference=order.reference,
        device=order.device,
    )


def steer_maker(order: Order) -> SteerMaker:
    """A bias from pairs of the base's own answers."""
    assert order.answers is not None
    return SteerMaker(
        order.variant.name,
        order.base,
        order.method_settings,
        order.answers,
        order.character.rules,
        order.character.digest,
        order.device,
    )


def bias_grpo_maker(order: Order) -> BiasGrpoMaker:
    """The bias of V6's place by V3's rewards."""
    steered = replace(order.variant, method="steer", implies={})
    site = replace(order, variant=steered).method_settings
    return BiasGrpoMaker(grpo_maker(order).request, order.base, site)


MAKERS: Mapping[Method, Callable[[Order], Maker]] = {
    "grpo": grpo_maker,
    "mask": mask_maker,
    "steer": steer_maker,
    "bias-grpo": bias_grpo_maker,
}
"""Method of a variant → what makes it."""


def grpo_settings(order: Order) -> GrpoSettings:
    """The preset, with what the person set and what the variant implies; else the same for every variant."""
    shown = ", ".join(f"{key} = {value}" for key, value in order.turned.items())
    logger.info("train: preset %s%s", order.preset_name, f", with {shown}" if shown else "")
    changed: dict[str, Any] = {**order.turned, **order.variant.implies}
    return replace(read_preset(order.preset_name), seed=order.seed, **changed)


def reward_functions(order: Order) -> Mapping[str, RewardFunction]:
    """The rewards that are summed, by metric name; the judge is asked once before training starts."""
    rules = replace(order.character.rules, hardened=order.is_hardened)
    functions: dict[str, RewardFunction] = {
        "personality": partial(rewards.personality, rules=rules),
        "coherence": partial(rewards.coherence, rules=rules),
        "identity": partial(rewards.identity, rules=rules),
    }
    if order.judge_url:
        from skippy.models.judge import judge_reward

        functions["judge"] = judge_reward(order.judge_url, order.judge_model, order.character.traits)
    return functions


def _digest_of_rewards(order: Order, own: Sequence[OwnReward]) -> str:
    parts = [order.character.digest, str(order.is_hardened), order.judge_url, order.judge_model]
    parts += [each.digest for each in own]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
