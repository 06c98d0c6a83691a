"""The build program, end to end and very small, and the parts it is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerBase

from skippy.errors import TrainingError
from skippy.lab.architecture import make_config, make_model
from skippy.lab.build import BuildPlan, build, main
from skippy.lab.corpus import Corpus, encode_examples, make_batches, make_examples
from skippy.lab.families import FAMILIES
from skippy.lab.measure import choose_levels
from skippy.lab.pretrain import Recipe, answer_loss, learning_rate_share, pretrain
from skippy.lab.shipping import describe_files, replace_directory
from skippy.lab.tokenizer import END_OF_TEXT, special_token_ids, train_tokenizer

TINY = Recipe(steps=3, tokens_per_batch=512, accumulation=2, warmup_steps=1, save_steps=2)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(example.prompt + example.answer for example in make_examples(400, 1))


@pytest.fixture(scope="module")
def corpus(tokenizer: PreTrainedTokenizerBase) -> Corpus:
    return encode_examples(make_examples(120, 2), tokenizer, 120, "encode")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lab")
    plan = BuildPlan(
        out=out,
        tokenizer_examples=400,
        examples=150,
        recipe=TINY,
        measured_problems=1,
        adapter_examples=20,
        adapter_recipe=replace(TINY, steps=2),
    )
    build(plan)
    return out


def test_a_build_leaves_nothing_unfinished_behind(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == {"adapter", "checkpoint", "manifest.json"}


def test_a_tiny_build_makes_a_checkpoint_that_loads_and_generates(built: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(built / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(built / "checkpoint")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    rows = tokenizer("Find term 3.", return_tensors="pt")
    tokens = model.generate(**rows, max_new_tokens=3, do_sample=False)
    assert tokens.shape[1] <= rows["input_ids"].shape[1] + 3


def test_a_tiny_build_makes_an_adapter_that_stock_peft_loads_and_that_has_an_effect(built: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(built / "checkpoint", dtype=torch.float32)
    ids = torch.tensor([[5, 300, 301, 302]])
    before = model(input_ids=ids).logits.detach()
    adapted = PeftModel.from_pretrained(model, str(built / "adapter")).eval()
    assert (adapted(input_ids=ids).logits - before).abs().max() > 1e-6
    names = load_file(built / "adapter" / "adapter_model.safetensors")
    assert len(names) == 2 * 7 * model.config.text_config.num_hidden_layers
    assert not any(".visual." in name for name in names)


def test_the_manifest_describes_every_file_as_it_is(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["files"] == describe_files((built / "checkpoint", built / "adapter"), built)
    assert manifest["base"]["training"]["steps"] == 3
    assert set(manifest["evaluation_levels"]) == set(manifest["measured"]["accuracy"]) == set(FAMILIES)
    assert str(built) not in json.dumps(manifest)
    assert str(built) not in (built / "adapter" / "adapter_config.json").read_text()


def test_only_one_phase_keeps_what_the_others_wrote(built: Path) -> None:
    before = json.loads((built / "manifest.json").read_text())
    weights = (built / "checkpoint" / "model.safetensors").read_bytes()
    plan = BuildPlan(out=built, adapter_examples=10, adapter_recipe=replace(TINY, steps=1))
    build(plan, ("adapter",))
    after = json.loads((built / "manifest.json").read_text())
    assert after["base"] == before["base"]
    assert after["adapter"]["training"]["steps"] == 1
    assert (built / "checkpoint" / "model.safetensors").read_bytes() == weights


def test_the_command_line_describes_its_options() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for option in ("--device", "--steps", "--minutes", "--examples", "--out", "--only"):
        assert option in result.output


def test_batches_hold_every_example_once_and_learn_answers_only(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus
) -> None:
    pad = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    batches = list(make_batches(corpus, 1024, 0, pad))
    assert sum(len(batch.inputs) for batch in batches) == len(corpus)
    answers = sum(int(batch.is_answer.sum()) for batch in batches)
    assert answers == int((corpus.starts[1:] - corpus.answers).sum())
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape == batch.is_answer.shape
        ends = [tokenizer.decode(row[mask]) for row, mask in zip(batch.targets, batch.is_answer, strict=True)]
        assert all(text.endswith("<|im_end|>") and "<|im_start|>" not in text for text in ends)


def test_padding_changes_no_loss(tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> None:
    model = make_model(make_config(len(tokenizer), special_token_ids(tokenizer)), 0).eval()
    batch = next(make_batches(corpus, 1024, 0, tokenizer.convert_tokens_to_ids(END_OF_TEXT)))
    row = int(batch.is_answer.sum(1).argmin())
    length = int(batch.is_answer[row].nonzero().max()) + 1
    padded = model.model.language_model(input_ids=batch.inputs).last_hidden_state[row, :length]
    alone = model.model.language_model(input_ids=batch.inputs[row : row + 1, :length]).last_hidden_state[0]
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def test_training_lowers_the_loss_and_leaves_the_tower_alone(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus
) -> None:
    model = make_model(make_config(len(tokenizer), special_token_ids(tokenizer)), 0)
    model.model.visual.requires_grad_(False)
    tower = {name: value.clone() for name, value in model.model.visual.state_dict().items()}
    batch = next(make_batches(corpus, 1024, 1, tokenizer.convert_tokens_to_ids(END_OF_TEXT)))
    before = float(answer_loss(model, batch, torch.device("cpu")).detach())
    figures = pretrain(model, corpus, replace(TINY, steps=4), 0, device=torch.device("cpu"))
    assert figures.steps == 4
    assert float(answer_loss(model, batch, torch.device("cpu")).detach()) < before - 0.05
    assert all(torch.equal(value, tower[name]) for name, value in model.model.visual.state_dict().items())


def test_one_worker_and_two_make_the_same_step(tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> None:
    weights = []
    for workers in (1, 2):
        model = make_model(make_config(len(tokenizer), special_token_ids(tokenizer)), 0)
        model.model.visual.requires_grad_(False)
        pretrain(model, corpus, replace(TINY, steps=1, workers=workers), 0, device=torch.device("cpu"))
        weights.append(model.lm_head.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


def test_an_empty_corpus_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    empty = encode_examples([], tokenizer, 0, "encode")
    model = make_model(make_config(len(tokenizer), special_token_ids(tokenizer)), 0)
    with pytest.raises(TrainingError, match="nothing to train on"):
        pretrain(model, empty, TINY, 0, device=torch.device("cpu"))


def test_the_learning_rate_warms_up_then_falls_to_its_floor() -> None:
    recipe = Recipe(steps=100, warmup_steps=10, final_share=0.1)
    shares = [learning_rate_share(step / 100, step, recipe) for step in range(101)]
    assert shares[0] < shares[5] < shares[9]
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0.1)


def test_levels_are_chosen_inside_the_range_or_around_it_or_nearest_to_it() -> None:
    falling, high = {1: 0.95, 2: 0.7, 3: 0.4, 4: 0.1}, {1: 1.0, 2: 0.99, 3: 0.9, 4: 0.1}
    chosen = choose_levels({"triangle": falling, "remainder": high})
    assert chosen == {"triangle": (2, 3), "remainder": (3, 4)}
    assert choose_levels({"triangle": {1: 1.0, 2: 0.99, 3: 0.9}}) == {"triangle": (3,)}


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    replace_directory(target, lambda directory: (directory / "old").write_text("1"))

    def fail(directory: Path) -> None:
        (directory / "half").write_text("2")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        replace_directory(target, fail)
    assert [path.name for path in target.iterdir()] == ["old"]
    replace_directory(target, lambda directory: (directory / "new").write_text("3"))
    assert [path.name for path in target.iterdir()] == ["new"]
