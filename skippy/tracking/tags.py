"""Every tag of ours, once: its name in the store, and the type of what it holds.

A tag is a string and may stand wherever mlflow wants its name. Values are text in the store; `read` gives them back
as what they are, and `None` where a run of an earlier version does not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

NOTE_TAG = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"
CLAIM_PREFIX = "skippy.claim."
"""Tags of the experiment: who waits for its turn."""
LINK_PREFIX, LINK_SUFFIX = "skippy.", "_run"
"""`skippy.<stage>_run`: the runs that a run builds on, comma-separated where there are several."""


def _truth(text: str) -> bool:
    return text == "true"


def _many(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


class Tag(StrEnum):
    """The tags of runs and logged models; the second of each is what reads its text."""

    read_text: Callable[[str], Any]

    def __new__(cls, name: str, read_text: Callable[[str], Any] = str) -> Tag:
        """A member that is its name and knows its type."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.read_text = read_text
        return member

    # Every run.
    STAGE = "skippy.stage"
    VARIANT = "skippy.variant"
    BASE_DIGEST = "skippy.base_digest"
    # How the weights are read: config, tokenizer, chat template. In an evaluation of the model asked, else of the base.
    READING = "skippy.reading"
    CHARACTER = "skippy.character"
    CODE_VERSION = "skippy.code_version"
    GIT_DIRTY = "skippy.git_dirty", _truth
    PROCESS = "skippy.process"
    ERROR = "skippy.error"
    MOVED_TO = "skippy.moved_to"
    WORK = "skippy.work"
    REUSES = "skippy.reuses"
    SEED = "skippy.seed"
    CHARACTER_DIGEST = "skippy.character_digest"
    # In a training or an evaluation: digest of the person's own prompts, or `character` for the character's.
    PROMPTS_DIGEST = "skippy.prompts_digest"
    # Of all that decides a training's rewards: character, hardening, judge, and the source of own ones.
    REWARDS_DIGEST = "skippy.rewards_digest"
    # svd and subspace.
    K = "skippy.k"
    TOLERANCE = "skippy.tolerance", float
    SVD_SEED = "skippy.svd_seed", int
    PROJECTOR_DIGEST = "skippy.projector_digest"
    PROMPTS = "skippy.prompts", int
    ANSWER_TOKENS = "skippy.answer_tokens", int
    SUBSPACE_SEED = "skippy.subspace_seed", int
    BASE_ANSWERS = "skippy.base_answers"
    # train and merge.
    BASE_HASH = "skippy.base_hash"
    TRAINING_CODE = "skippy.training_code"
    STEP = "skippy.step"
    MODEL_URI = "skippy.model_uri"
    MODEL_ID = "skippy.model_id"
    MODEL_DIGEST = "skippy.model_digest"
    # On a logged model: its version is being deleted, and its weights are to go with it.
    DELETED = "skippy.deleted", _truth
    ADAPTER_DIGEST = "skippy.adapter_digest"
    WALK_RUNS = "skippy.walk_runs", _many
    # What α was found for a matched persona, and how, in a sentence.
    MATCHED_DOSE = "skippy.matched_dose"
    # eval.
    SUITE = "skippy.suite"
    SUBJECT = "skippy.subject"
    SAMPLING = "skippy.sampling"
    SAMPLING_SEED = "skippy.sampling_seed", int
    SAMPLES = "skippy.samples", int
    MAX_TOKENS = "skippy.max_tokens", int
    PROMPT_STYLE = "skippy.prompt_style"
    PROBLEMS = "skippy.problems"
    PROBLEMS_DIGEST = "skippy.problems_digest"
    BACKEND = "skippy.backend"
    JUDGE = "skippy.judge"
    EVALUATION_CODE = "skippy.evaluation_code"
    # compare and promote.
    EVAL_RUNS = "skippy.eval_runs", _many
    VERDICT = "skippy.verdict"
    WINNER = "skippy.winner"
    REPORT_SHA256 = "skippy.report_sha256"
    PROMOTION = "skippy.promotion"
    SENSITIVITY = "skippy.sensitivity"
    # study.
    BOARD_RUN = "skippy.board_run"
    STUDY_GROUP = "skippy.study_group"
    UNIT = "skippy.unit"
    ATTEMPT = "skippy.attempt", int
    HEARTBEAT = "skippy.heartbeat"
    TRAINING_KEY = "skippy.training_key"
    REUSES_ADAPTER = "skippy.reuses_adapter"

    def read(self, tags: Mapping[str, str]) -> Any:
        """The value among `tags`, as its type; None where it is missing or empty."""
        text = tags.get(self, "")
        return self.read_text(text) if text else None


def tag_named(name: str) -> Tag:
    """`seed` → `Tag.SEED`; a ValueError for a name that is none."""
    return Tag(f"{LINK_PREFIX}{name}")


def link_tag(stage: str) -> str:
    """`svd` → `skippy.svd_run`; a full tag name stays as it is."""
    if stage.startswith(LINK_PREFIX):
        return stage
    return f"{LINK_PREFIX}{stage.removesuffix(LINK_SUFFIX)}{LINK_SUFFIX}"
