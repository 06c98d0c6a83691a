"""The hyperparameters of steering: a bias found by preference optimisation or by a difference of means."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.options import option

OBJECTIVES = ("bipo", "means")
SITES = ("o_proj", "v_proj", "block")


@dataclass(frozen=True)
class SteerSettings:
    """Where the bias sits and how it is found; the defaults are BiPO's (arXiv 2406.00045, §4)."""

    objective: str = option(
        "bipo",
        "how the bias is found: bipo (preference optimisation) or means (difference of mean activations)",
        choices=OBJECTIVES,
    )
    site: str = option(
        "o_proj", "what the bias is added to; block, the paper's, has no place in a checkpoint", choices=SITES
    )
    layers: int = option(1, "how many layers, one after the other", minimum=1)
    depth: float = option(0.6, "share of the model's layers below the middle one of them", minimum=0, below=1)
    beta: float = option(0.1, "how soon a pair counts as told apart", above=0)
    learning_rate: float = option(5e-4, "AdamW's learning rate at its peak", above=0)
    weight_decay: float = option(0.05, "AdamW's decoupled weight decay", minimum=0)
    warmup_steps: int = option(
        100, "steps in which the learning rate rises; then it falls as a cosine", minimum=0
    )
    batch: int = option(4, "pairs a step", minimum=1)
    epochs: int = option(20, "passes over the pairs", minimum=1)
    held_out: float = option(
        0.125, "share of the prompts whose pairs only stop the training", above=0, below=1
    )
    patience: int = option(3, "epochs without a better loss on those after which it stops", minimum=1)
    fewest_pairs: int = option(200, "pairs below which it is refused", minimum=2)
    most_pairs: int = option(700, "pairs above which the others are left aside", minimum=2)
    least_margin: float = option(2.0, "summed rewards by which the answer in character leads", minimum=0)
    grpo_learning_rate: float = option(5e-4, "AdamW's, where GRPO trains the bias", above=0)
    seed: int = option(42, "seed of the split and of the order of pairs", minimum=0)
