"""What is made from the base's own answers, a mask or biases: its identity is known without torch or transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from skippy.core.style.reward_rules import RewardRules
from skippy.core.variants import Variant
from skippy.presets.methods import MaskSettings
from skippy.presets.steering import SteerSettings
from skippy.resolve.bases import Base
from skippy.resolve.references import FoundReference
from skippy.stores.answers import CHARACTER, PLAIN, Answers
from skippy.stores.projector_files import ProjectorSet
from skippy.training.making import work_name


@dataclass(frozen=True, eq=False)
class MaskWork:
    """A mask."""

    variant: Variant
    base: Base
    settings: MaskSettings
    answers: Answers  # the base's, under the character's prompt and plainly
    projectors: ProjectorSet | None  # directions kept or measured
    reference: FoundReference | None  # character deltas are measured against it; None: they are not
    device: str  # cpu, cuda or auto

    @property
    def identity(self) -> Mapping[str, Any]:
        """Base, settings, answers, and the directions kept or measured."""
        texts = [asdict(each) for name in self.answers.by_condition for each in self.answers.of(name)]
        return {
            "variant": self.variant.name,
            "base_digest": self.base.digest,
            "reading": self.base.reading,
            "settings": asdict(self.settings),
            "answers": hashlib.sha256(repr(texts).encode()).hexdigest(),
            "projector_digest": self.projector_digest,
        }

    @property
    def projector_digest(self) -> str:
        """Of the directions, empty without."""
        return self.projectors.digest if self.projectors else ""

    def name_work(self) -> tuple[str, ...]:
        """The workspace."""
        return work_name(self.variant.name, self.base.digest, self.settings.seed, self.identity)


@dataclass(frozen=True, eq=False)
class SteerWork:
    """Biases, out of pairs of answers."""

    variant: str  # what they are called
    base: Base  # what is steered
    settings: SteerSettings  # where the biases sit, and how they are found
    answers: Answers  # the base's, under the character's prompt and plainly
    rules: RewardRules  # of the character's rewards, which tell the two apart
    rules_digest: str  # of the character
    device: str  # cpu, cuda or auto

    @property
    def identity(self) -> Mapping[str, Any]:
        """Base, settings, answers and character."""
        answers = [*self.answers.of(CHARACTER), *self.answers.of(PLAIN)]
        asked = [[each.condition, each.prompt, each.text] for each in answers]
        return {
            "base_digest": self.base.digest,
            "reading": self.base.reading,
            "variant": self.variant,
            "settings": asdict(self.settings),
            "answers": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
            "character": self.rules_digest,
        }

    def name_work(self) -> tuple[str, ...]:
        """The workspace of this training."""
        return work_name(self.variant, self.base.digest, self.settings.seed, self.identity)
