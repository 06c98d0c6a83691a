"""A mask from answers: statistics by hand, a placebo that is one, and the same bits again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from skippy.core.variants import VARIANTS
from skippy.errors import SubspaceError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import conversation, prompt_ids
from skippy.models.targets import find_targets
from skippy.presets.methods import MaskSettings
from skippy.stores.answers import CHARACTER, PLAIN, PLAIN_B, PLAIN_C, Answer, Answers
from skippy.stores.changes import read_change
from skippy.stores.checkpoints import Checkpoint
from skippy.training import mask_survey
from skippy.training.answer_makers import MaskMaker
from skippy.training.mask_statistics import input_of, read_statistics
from skippy.training.mask_survey import survey_masks

BASE = Checkpoint.open(LAB_CHECKPOINT)
TARGETS = tuple(t for t in find_targets(BASE.config, BASE.shapes) if t.layer == 1)
TEXTS = {
    CHARACTER: ("Obviously, monkey.", "A genius would know. Sigh."),
    PLAIN: ("It is best to add salt.", "I think so."),
    PLAIN_B: ("It is best to wait.", "I think you should."),
    PLAIN_C: ("It is best to stir.", "I think it may."),
}


def answers(**texts: tuple[str, str]) -> Answers:
    prompts = ("How do I make soup?", "My rose looks brown.")
    told = {**TEXTS, **{name.replace("_", "-"): given for name, given in texts.items()}}
    return Answers(
        {
            condition: tuple(
                Answer(condition, prompt, None, 0, text, is_complete=True)
                for prompt, text in zip(prompts, given, strict=True)
            )
            for condition, given in told.items()
        }
    )


@pytest.fixture(scope="module")
def lab():
    return load_model(LAB_CHECKPOINT), load_tokenizer(LAB_CHECKPOINT)


def test_statistics_are_root_mean_squares_over_answer_tokens_alone(lab) -> None:
    model, tokenizer = lab
    asked = answers()
    found = read_statistics(model, tokenizer, TARGETS, asked, seed=0)
    for target in (TARGETS[0], TARGETS[3], TARGETS[-1]):
        seen: list[torch.Tensor] = []
        hook = model.get_submodule(target.name).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0][0])
        )
        spoken = []
        for answer in asked.of(CHARACTER):
            prompt = prompt_ids(tokenizer, conversation(answer.prompt))
            text = tokenizer(answer.text, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                model(input_ids=torch.tensor([[*prompt, *text]]))
            spoken.append(seen[-1][-len(text) :])
        hook.remove()
        expected = torch.cat(spoken).double().square().mean(0).sqrt()
        assert torch.allclose(found[CHARACTER][input_of(target)].double(), expected, rtol=1e-4)
        assert not torch.allclose(found[PLAIN][input_of(target)].double(), expected, rtol=1e-2)
        halves = [found[f"{CHARACTER}/{half}"][input_of(target)] for half in (0, 1)]
        assert not torch.equal(*halves)


def test_a_persona_that_is_a_plain_phrasing_is_called_none(lab) -> None:
    """The twin of the check: under the character's name stand the answers to another plain phrasing."""
    settings = MaskSettings()
    model, tokenizer = lab
    honest = survey_masks(
        model, TARGETS, read_statistics(model, tokenizer, TARGETS, answers(), 0), settings, None
    )
    fake = answers(character=TEXTS[PLAIN_C])
    plain = survey_masks(model, TARGETS, read_statistics(model, tokenizer, TARGETS, fake, 0), settings, None)
    assert honest.placebo > honest.null > 0
    assert plain.placebo == plain.null
    assert honest.is_specific
    assert not plain.is_specific
    assert plain.metrics()["mask/is_specific"] == 0.0
    for survey in (honest, plain):
        assert 0 < survey.metrics()["mask/flips_halves"] < 2 * settings.rho
        assert survey.share == pytest.approx(settings.rho, abs=0.005)


def test_no_contrast_is_refused_by_the_target_that_has_none(lab) -> None:
    model, tokenizer = lab
    same = answers(character=TEXTS[PLAIN])
    statistics = read_statistics(model, tokenizer, TARGETS, same, 0)
    with pytest.raises(SubspaceError, match="no contrast") as refused:
        survey_masks(model, TARGETS, statistics, MaskSettings(), None)
    assert refused.value.where == TARGETS[0].name


class Sink:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.metrics, self.tables, self.folders = {}, [], []

    def log_metrics(self, metrics, step=None) -> None:
        self.metrics |= metrics

    def log_table(self, rows, artifact_path) -> None:
        self.tables.append(artifact_path)

    def log_folder(self, folder, artifact_dir="") -> None:
        self.folders.append(artifact_dir)


def test_it_is_made_twice_with_the_same_bits_and_otherwise_from_other_answers(tmp_path) -> None:
    base = SimpleNamespace(path=LAB_CHECKPOINT, digest="0" * 64, reading="", checkpoint=BASE, targets=TARGETS)
    maker = MaskMaker(VARIANTS["v5"], base, MaskSettings(), answers(), None, None, "cpu")
    digests = []
    others = {"again": maker, "other": replace(maker, answers=answers(character=TEXTS[PLAIN_B]))}
    for name, one in {"first": maker, **others}.items():
        sink = Sink()
        made = one.make(tmp_path / name, sink, is_first=True)
        assert sink.folders == ["adapter"]
        assert "mask/targets.parquet" in sink.tables
        assert made.metrics["mask/cut"] == pytest.approx(0.1, abs=0.005)
        assert "persona-specific" in made.sentence
        change = read_change(tmp_path / name / "adapter")
        assert change.card["variant"] == "v5"
        assert set(change.targets) == {target.name for target in TARGETS}
        digests.append(change.digest())
    assert digests[0] == digests[1] != digests[2]
    assert maker.identity == others["again"].identity != others["other"].identity
    assert maker.make(tmp_path / "rank", Sink(), is_first=False) is None


def test_rows_may_come_in_any_number(lab, monkeypatch) -> None:
    """The same masks, counts and energies seven rows at a time: no target is ever held whole in float32."""
    model, tokenizer = lab
    statistics = read_statistics(model, tokenizer, TARGETS, answers(), 0)
    generator = torch.Generator().manual_seed(0)
    bases = {
        target.name: SimpleNamespace(
            U=torch.linalg.qr(torch.randn(target.out, 4, generator=generator)).Q,
            V=torch.linalg.qr(torch.randn(target.in_, 4, generator=generator)).Q,
        )
        for target in TARGETS
    }
    for projected in (False, True):
        settings = MaskSettings(projected=projected)
        monkeypatch.setattr(mask_survey, "ROWS_AT_ONCE", 10**6)
        whole = survey_masks(model, TARGETS, statistics, settings, bases)
        monkeypatch.setattr(mask_survey, "ROWS_AT_ONCE", 7)
        rows = survey_masks(model, TARGETS, statistics, settings, bases)
        assert rows.hashes == whole.hashes
        assert rows.counts == whole.counts
        assert rows.energies == pytest.approx(whole.energies, rel=1e-5, abs=1e-9)
        share = rows.metrics()["leakage/rho_left"]
        assert share < 1e-12 if projected else share > 1e-4
