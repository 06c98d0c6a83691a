"""How far an arm has moved from its base on everyday prompts, in nats a token."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from skippy.core.variants import VARIANTS
from skippy.evaluation.asking import Plan
from skippy.evaluation.suites import BANAL, PLAIN
from skippy.models.divergence import Divergence
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import prompt_ids
from skippy.resolve.bases import Base
from skippy.stores.samples import Sample

logger = logging.getLogger(__name__)

TEXTS, TOKENS = 48, 256
METRIC = "banal/kl_to_base"


def kl_to_base(samples: Sequence[Sample], plan: Plan, base: Base) -> dict[str, float]:
    """`banal/kl_to_base`: KL(arm‖base) on the arm's own first answers to plain prompts; empty where it cannot be told.

    An answer is a sample of the arm, so the mean over its tokens estimates the divergence of the two models as they
    speak. The base is read first and let go: the two are never in memory together.
    """
    rule = VARIANTS.get(plan.subject.variant)
    own = [
        s
        for s in samples
        if s.suite == BANAL and s.sample_index == 0 and s.problem_id.startswith(f"{PLAIN}/")
    ]
    if rule is None or rule.update == "none" or plan.generator.backend != "transformers" or not own:
        return {}
    tokenizer = load_tokenizer(base.path)
    messages = {question.hash: question.messages for question in plan.questions}
    texts = []
    for sample in sorted(own, key=lambda each: each.problem_hash)[:TEXTS]:
        answer = tokenizer(sample.completion, add_special_tokens=False)["input_ids"][:TOKENS]
        if answer:
            texts.append((list(prompt_ids(tokenizer, messages[sample.problem_hash])), answer))
    if not texts:
        return {}
    measure = Divergence(load_model(base.path, device=plan.generator.device), tokenizer, texts)
    measure.forget_model()
    _, found = measure.measure(load_model(plan.subject.path, device=plan.generator.device))
    logger.info("eval: %s is %.4f nats a token from the base", plan.subject.label, found)
    return {METRIC: found}
