"""How completions are sampled, as data: the parameters, and the presets a person chooses from.

No torch: the command line reads this table before anything heavy loads.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from skippy.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled."""

    temperature: float | int = 1.0  # divides the logits; 0 takes the most likely token
    top_p: float | int = 1.0  # smallest set of tokens that holds this share of the probability; 1 keeps all
    top_k: int = 0  # number of most likely tokens kept; 0 keeps all
    presence_penalty: float | int = 0.0  # subtracted from the logit of every token already in the completion
    max_tokens: int = 256  # length at which a completion is cut off
    name: str = "custom"  # of the preset, for the record

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        checks = (
            ("temperature", 0 <= self.temperature < math.inf, "a finite number of at least 0"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0, at most 1"),
            ("top_k", self.top_k >= 0, "a whole number, 0 for all tokens"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "a number from -2 to 2"),
            ("max_tokens", self.max_tokens >= 1, "a whole number of at least 1"),
        )
        for field, is_sound, expected in checks:
            if not is_sound:
                raise ConfigError(
                    f"The sampling parameter {field} cannot have this value.",
                    where=f"sampling {self.name}",
                    expected=expected,
                    found=str(getattr(self, field)),
                    next_step="choose a preset: " + ", ".join(PRESETS),
                )


# The lab's, greedy, and what the makers of a family publish (its generation_config.json or model card; the repetition
# penalty of Qwen2.5 is left out: no backend here has one). `chat` is for those who publish nothing.
PRESETS: dict[str, Sampling] = {
    preset.name: preset
    for preset in (
        Sampling(temperature=0.8, top_p=0.95, top_k=50, max_tokens=160, name="lab"),
        Sampling(temperature=0.0, max_tokens=32768, name="greedy"),
        Sampling(1.0, 1.0, 40, 2.0, 32768, "qwen3vl-instruct"),
        Sampling(1.0, 0.95, 20, 1.5, 81920, "qwen3vl-thinking"),
        Sampling(0.7, 0.8, 20, 0.0, 32768, "qwen3"),
        Sampling(0.6, 0.95, 20, 0.0, 81920, "qwen3-thinking"),
        Sampling(0.7, 0.8, 20, 0.0, 8192, "qwen2"),
        Sampling(0.6, 0.9, 0, 0.0, 8192, "llama"),
        Sampling(1.0, 0.95, 64, 0.0, 8192, "gemma"),
        Sampling(0.7, 0.95, 0, 0.0, 8192, "chat"),
    )
}


def seed_of_sample(problem_hash: str, index: int, preset: str, *, purpose: str = "", seed: int = 0) -> int:
    """The seed of one sample: the same for every arm, so that arms differ in their weights alone.

    Args:
        purpose: empty for an evaluation; another one draws independently of it.
        seed: of the whole evaluation; another one draws independently of it.
    """
    # Zero and no purpose add nothing, so that the samples of earlier versions stay what they were.
    parts = (problem_hash, str(index), preset, *filter(None, (purpose, f"seed={seed}" if seed else "")))
    digest = hashlib.sha256(" ".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def everyday_hash(mode: str, text: str) -> str:
    """Sixteen hexadecimal digits of an everyday question and the mode in which it is put."""
    return hashlib.sha256(f"{mode}\n{text}".encode()).hexdigest()[:16]
