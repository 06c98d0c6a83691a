"""Matched persona: the α of a trained adapter at which its persona is a given one, or that of other arms.

Each α is played back in the live weights and asked validation prompts, which are neither trained on nor tested on,
with sampling seeds of their own. No problem is read. No checkpoint is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from skippy.characters.schema import Character
from skippy.core.inference.dose_search import DoseMatch, MeanPersona, match_dose, mean_persona
from skippy.core.inference.matching import within_reach
from skippy.core.sampling import Sampling
from skippy.errors import AdapterError, CharacterError
from skippy.evaluation.asking import Plan, choose_sampling, fill
from skippy.evaluation.generator import Generator
from skippy.evaluation.suites import Question, everyday_questions, requests_for
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.transformers_backend import TransformersBackend
from skippy.resolve.bases import Base
from skippy.resolve.dial import Dial
from skippy.resolve.subjects import Subject
from skippy.stores.adapters import Adapter
from skippy.stores.changes import Change
from skippy.stores.samples import Sample, SampleStore, read_samples

logger = logging.getLogger(__name__)

PURPOSE = "match"
SAMPLES = 4
TOLERANCE_SD = 0.1
"""Of single answers, where arms are matched: equality is later tested within 0.25 SD, and most of that is left."""
LEVEL_TOLERANCE = 0.02
"""Of the persona score, where a level is asked for; the least tolerance as well."""


@dataclass(frozen=True)
class DoseSearch:
    """A search, planned."""

    base: Base  # what the adapters are added to
    character: Character  # whose rules score the answers
    adapter: Change  # whose α is wanted
    label: str  # what people call it
    others: Mapping[str, Change]  # those whose persona it is to have, by label; empty: `level` says which
    level: float  # persona wanted; 0: the lowest that this adapter and the others have at `largest`
    largest: float  # no α beyond it is tried
    questions: Sequence[Question]  # validation prompts
    sampling: Sampling  # how answers are drawn
    device: str  # where the model lives

    @property
    def identity(self) -> list[object]:
        """What decides the α that is found, besides the base and the code."""
        asked = [self.character.digest, *(question.hash for question in self.questions)]
        adapters = [self.adapter.digest(), *sorted(other.digest() for other in self.others.values())]
        return [asked, adapters, self.level, self.largest, repr(self.sampling)]


@dataclass(frozen=True)
class MatchedDose:
    """What a search found."""

    target: float  # persona wanted
    whose: str  # where the target comes from, in words
    tolerance: float  # accepted distance
    found: DoseMatch  # every α tried, the nearest, and whether it is near enough
    looks: Mapping[float, MeanPersona]  # persona with its interval at every α tried
    samples: tuple[Sample, ...]  # every answer, of this adapter and of the others

    @property
    def alpha(self) -> float:
        """The scale found, or the nearest."""
        return self.found.alpha

    @property
    def sentence(self) -> str:
        """What was found and how, for people."""
        look = self.looks[self.found.alpha]
        at = f"α = {self.found.alpha:g}: persona {look.mean:.2f} ({look.lower:.2f} to {look.upper:.2f})"
        how = f"bisection, {len(self.found.measured)} scales tried on {look.prompts} validation prompts"
        target = f"{self.target:.2f}, {self.whose}"
        if self.found.is_matched:
            return f"{at}, matched to {target} ({how})"
        return f"{at}, the nearest to {target}, which is not matched: {self.found.reason} ({how})"


def plan_search(
    base: Base,
    character: Character,
    adapter: Change,
    label: str,
    *,
    others: Mapping[str, Change],
    level: float,
    largest: float,
    device: str,
) -> DoseSearch:
    """Check that a search can be made, before anything is loaded.

    Raises:
        CharacterError: the character has no validation prompts.
        AdapterError: an adapter is more than a scaled update.
        ConfigError: the sampling does not fit into the base's context.
    """
    if not character.validation_prompts:
        raise CharacterError(
            "The character has no prompts to search a matched dose on.",
            where=f"character {character.name}, field prompts",
            expected="validation: prompts that are neither in train nor in banal",
            found="no validation prompts",
            next_step="add them to the character file or to the file of prompts=…, or pass match_by=steps",
        )
    for name, one in {label: adapter, **others}.items():
        if isinstance(one, Adapter) and (one.magnitudes or one.saved):
            raise AdapterError(
                "The adapter is more than a scaled update, so it has no α to search.",
                where=name,
                expected="plain LoRA factors",
                found=", ".join(["DoRA magnitudes"] * bool(one.magnitudes) + sorted(one.saved)[:3]),
                next_step="pass match_by=steps",
            )
    questions = everyday_questions(character.validation_prompts)
    sampling = choose_sampling("auto", base, questions)
    return DoseSearch(base, character, adapter, label, others, level, largest, questions, sampling, device)


def search_dose(search: DoseSearch, folder: Path) -> MatchedDose:
    """Find the α; answers are kept in `folder` as they finish, so that a search that was killed goes on."""
    with closing(SampleStore(folder / "samples.jsonl")) as store:
        meter = _Meter(search, store)
        level, whose, tolerance = search.level, "the level asked for", LEVEL_TOLERANCE
        if not level:
            level, whose, tolerance = _lowest(search, meter)
        with meter.playing(search.adapter, search.label):
            looks = {}

            def measure(alpha: float) -> float:
                looks[alpha] = meter.look(alpha)
                logger.info(
                    "merge: %s at α = %g: persona %.3f (%.3f to %.3f), wanted %.3f ± %.3f",
                    *(search.label, alpha, looks[alpha].mean, looks[alpha].lower, looks[alpha].upper),
                    *(level, tolerance),
                )
                return looks[alpha].mean

            found = match_dose(measure, level, tolerance, largest=search.largest)
    samples = sorted(read_samples(store.path), key=lambda s: (s.model_digest, s.problem_id, s.sample_index))
    return MatchedDose(level, whose, tolerance, found, looks, tuple(samples))


def _lowest(search: DoseSearch, meter: _Meter) -> tuple[float, str, float]:
    """The lowest persona at full scale of all arms that come to the character, whose it is, and the tolerance on it.

    An arm that never does would hold the others down at no character at all; it is taken as it is.
    """
    at_full = {}
    for label, adapter in {search.label: search.adapter, **search.others}.items():
        with meter.playing(adapter, label):
            at_full[label] = meter.look(search.largest)
            base = meter.look(0.0)
    best = {label: look.mean for label, look in at_full.items()}
    reached = within_reach(best, base.mean, search.character.smallest_effect)
    if search.label not in reached:
        logger.warning(
            "merge: persona %.2f is the best of %s, and no character", best[search.label], search.label
        )
        reached = frozenset({search.label})
    lowest = min(reached, key=lambda label: best[label])
    tolerance = max(LEVEL_TOLERANCE, TOLERANCE_SD * at_full[lowest].deviation)
    return best[lowest], f"that of {lowest} at α = {search.largest:g}", tolerance


class _Meter:
    """Persona at an α of the adapter that is played."""

    def __init__(self, search: DoseSearch, store: SampleStore) -> None:
        self._search, self._store = search, store
        self._model = load_model(search.base.path, device=search.device)
        self._backend = TransformersBackend(self._model, load_tokenizer(search.base.path))
        self._dial: Dial | None = None
        self._playing = ("", "")

    @contextmanager
    def playing(self, adapter: Change, label: str) -> Iterator[None]:
        """Play one adapter; the base's weights are restored to the bit."""
        self._dial = Dial(self._model, self._search.base.checkpoint, adapter)
        self._playing = (label, adapter.digest()[:16])
        try:
            yield
        finally:
            self._dial.turn(0.0)
            self._dial = None

    def look(self, alpha: float) -> MeanPersona:
        """Ask what was not asked yet at this α."""
        search, (label, digest) = self._search, self._playing
        assert self._dial is not None
        name = f"{digest if alpha else 'base'}@{alpha!r}"  # at 0 every arm is the base, which is asked once
        wanted = requests_for(
            search.questions, SAMPLES, search.sampling, name, self._store.finished(), purpose=PURPOSE
        )
        if wanted:
            self._dial.turn(alpha)
            subject = Subject(f"{label} at α = {alpha:g}", "", search.base.path, name, label)
            generator = Generator(device=search.device)
            plan = Plan(
                *(subject, search.character, None, search.questions, search.sampling, SAMPLES),
                generator=generator,
            )
            fill(self._store, wanted, plan, name, self._backend)
        scores: dict[str, list[float]] = {}
        for sample in read_samples(self._store.path):
            if sample.model_digest == name:
                scores.setdefault(sample.problem_hash, []).append(float(sample.score or 0.0))
        return mean_persona(list(scores.values()))
