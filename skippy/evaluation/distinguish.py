"""Can a classifier tell a variant's everyday answers from the base's? A proxy for character, and labelled so."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

FOLDS = 5


def distinguishability(
    first: Sequence[str], second: Sequence[str], first_groups: Sequence[str], second_groups: Sequence[str]
) -> float | None:
    """Mean held-out AUC of TF-IDF and logistic regression over five folds; 0.5 is chance, 1 always told apart.

    A classifier two-sample test: it sees that texts differ, not why. Whole prompts are held out: a classifier
    that saw other answers to the same prompt would recognise their content and call it style.

    Args:
        first_groups: the prompt of each answer in `first`, in any mode.
        second_groups: the prompt of each answer in `second`.

    Returns:
        None with too few prompts for the folds.

    Source: Lopez-Paz and Oquab 2017, arXiv 1610.06545. Departure: AUC in place of accuracy.
    """
    if min(len(set(first_groups)), len(set(second_groups))) < FOLDS:
        return None
    texts = [*first, *second]
    labels = [0] * len(first) + [1] * len(second)
    pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    groups = [*first_groups, *second_groups]
    scores = cross_val_score(pipeline, texts, labels, groups=groups, cv=folds, scoring="roc_auc")
    return float(scores.mean())
