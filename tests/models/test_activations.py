"""What is captured is the right side of the right module, averaged over answer tokens and nothing else."""

import copy
import math
from dataclasses import dataclass

import peft
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from skippy.core.personality.measurement import measure_character
from skippy.core.personality.reference import middle_layers, prepare_gauge
from skippy.core.personality.subspaces import held_out_energy, persona_subspace
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import SubspaceError, TargetError
from skippy.models.activations import HELD_OUT, _split, collect_reference, mean_hidden, plan_hooks
from skippy.models.answering import GreedyAnswerer, pad_id
from skippy.models.hooks import Hook, Reading, find_module, read_moments
from skippy.models.prompts import conversation, prompt_ids
from skippy.models.targets import find_targets

HIDDEN, LAYERS = 32, 2
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?'0123456789"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|v1|>", "<|v2|>", "<|v3|>", "<|v4|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


@dataclass(frozen=True)
class Persona:
    name: str
    system_prompt: str


@dataclass(frozen=True)
class Pair:
    high: str
    low: str


@dataclass(frozen=True)
class Trait:
    name: str
    pairs: tuple[Pair, ...]


PERSONAS = tuple(Persona(name, f"You are a {name}.") for name in ("pirate", "monk", "poet", "coach"))
TRAITS = (
    Trait("loud", (Pair("SHOUT!", "whisper"), Pair("be LOUD", "be quiet"))),
    Trait("dry", (Pair("be dry.", "be lush, and long"),)),
)
PROMPTS = ("what now?", "tell me more", "how is it going", "why", "sing", "good night", "rain?", "eat what?")


def echo(conversations):
    """Answers that depend on system prompt and prompt."""
    return [
        f"{messages[0]['content'][::-1][:17]} and {messages[-1]['content'][:5]}" for messages in conversations
    ]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {text: i for i, text in enumerate([*SPECIAL, *LETTERS, "<unk>"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token=SPECIAL[0], eos_token=SPECIAL[2]
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def model():
    text = {
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(LETTERS) + len(SPECIAL) + 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
    }
    vision |= {"patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=3,
        video_token_id=4,
        vision_start_token_id=5,
        vision_end_token_id=6,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Qwen3VLForConditionalGeneration(config).eval()
        for name, parameter in made.named_parameters():
            if "language_model" in name and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
            elif "layernorm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    assert sum(p.numel() for p in made.parameters()) < 100_000
    return made


@pytest.fixture(scope="module")
def targets(model):
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return find_targets(model.config.to_dict(), shapes)


@pytest.fixture(scope="module")
def reference(model, tokenizer, targets):
    return collect(model, tokenizer, targets)


def collect(model, tokenizer, targets, **changes):
    arguments = {"base_digest": "b" * 64, "character_digest": "c" * 64, "batch_size": 5, "answer": echo}
    return collect_reference(model, tokenizer, targets, PERSONAS, PROMPTS, TRAITS, **arguments | changes)


def readings(tokenizer, count=6):
    made = []
    for i in range(count):
        answer = tokenizer(f"answer {i} " * (i + 1))["input_ids"]
        ids = prompt_ids(tokenizer, conversation(PROMPTS[i], PERSONAS[i % 4].system_prompt))
        made.append(Reading((*ids, *answer), len(answer), i % 2))
    return made


def one_by_one(model, readings, module, side, whole=False):
    """The obvious way: no padding, no batch, every activation kept."""
    kept = [[], []]
    target = find_module(model, module)
    for reading in readings:
        seen = []
        handle = (
            target.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            if side == "reads"
            else target.register_forward_hook(lambda _, args, out, seen=seen: seen.append(out))
        )
        with torch.no_grad():
            model(input_ids=torch.tensor([reading.ids]))
        handle.remove()
        state = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        kept[reading.group].append(state[0] if whole else state[0, -reading.answer :])
    return [torch.cat(part).double() for part in kept]


class TestMoments:
    @pytest.mark.parametrize(
        ("module", "side"),
        [
            ("model.language_model.layers.1.self_attn.q_proj", "reads"),
            ("model.language_model.layers.0.mlp.down_proj", "writes"),
            ("model.language_model.layers.0", "writes"),
        ],
    )
    def test_means_are_those_of_answer_tokens_alone(self, model, tokenizer, module, side):
        hook = Hook("here", module, side)
        batched = read_moments(model, readings(tokenizer), [hook], groups=2, pad_id=0, batch_size=4)["here"]
        single = one_by_one(model, readings(tokenizer), module, side)
        for group in (0, 1):
            torch.testing.assert_close(batched.means[group], single[group].mean(0), rtol=1e-4, atol=1e-5)
            assert int(batched.tokens[group]) == len(single[group])
        prompts_too = one_by_one(model, readings(tokenizer), module, side, whole=True)
        assert float((prompts_too[0].mean(0) - batched.means[0]).norm()) > 0.05

    def test_the_sketch_has_the_covariance(self, model, tokenizer):
        module = "model.language_model.layers.1.mlp.up_proj"
        many = readings(tokenizer)
        moments = read_moments(
            model,
            many,
            [Hook("here", module, "reads")],
            groups=2,
            pad_id=0,
            batch_size=2,
            sketch_rows=20_000,
        )["here"]
        covariance = torch.cov(torch.cat(one_by_one(model, many, module, "reads")).T, correction=0)
        sketched = moments.sketch.double().T @ moments.sketch.double()
        assert float((sketched - covariance).norm() / covariance.norm()) < 0.05
        raw = torch.cat(one_by_one(model, many, module, "reads"))
        uncentred = raw.T @ raw / len(raw)
        assert float((sketched - uncentred).norm() / covariance.norm()) > 0.2

    def test_every_hook_mixes_the_same_tokens(self, model, tokenizer):
        """A linear module without bias carries the sketch of its input to that of its output."""
        module = "model.language_model.layers.1.self_attn.q_proj"
        hooks = [Hook("in", module, "reads"), Hook("out", module, "writes")]
        seen = read_moments(
            model, readings(tokenizer), hooks, groups=2, pad_id=0, batch_size=4, sketch_rows=16
        )
        weight = find_module(model, module).weight.detach()
        torch.testing.assert_close(seen["out"].sketch, seen["in"].sketch @ weight.T, rtol=1e-3, atol=1e-4)

    def test_of_two_modules_with_one_name_neither_is_taken(self):
        twins = torch.nn.ModuleDict(
            {each: torch.nn.ModuleDict({"q_proj": torch.nn.Linear(1, 1)}) for each in "ab"}
        )
        with pytest.raises(TargetError, match="ambiguous"):
            find_module(twins, "q_proj")

    def test_a_group_without_answer_is_refused(self, model, tokenizer):
        hook = Hook("here", "model.language_model.layers.0", "writes")
        with pytest.raises(SubspaceError, match="group 2 of 3"):
            read_moments(model, readings(tokenizer), [hook], groups=3, pad_id=0, batch_size=4)

    def test_an_unknown_module_is_refused(self, model):
        with pytest.raises(TargetError, match=r"layers\.9"):
            find_module(model, "model.language_model.layers.9.self_attn.q_proj")

    def test_mode_and_hooks_are_left_as_found(self, model, tokenizer):
        """And in between dropout is off, for reading and for answering."""
        hook, seen = Hook("here", "model.language_model.layers.0", "writes"), []
        first = find_module(model, "model.language_model.layers.0")
        handle = first.register_forward_pre_hook(lambda module, _: seen.append(module.training))
        for is_training in (True, False):
            model.train(is_training)
            read_moments(model, readings(tokenizer), [hook], groups=2, pad_id=0, batch_size=4)
            assert model.training == is_training
            GreedyAnswerer(model, tokenizer, 2, batch_size=8)([conversation("why")])
            assert model.training == is_training
        handle.remove()
        assert set(seen) == {False}
        assert not find_module(model, hook.module)._forward_hooks

    @pytest.mark.parametrize(("layer", "runs"), [(0, 0), (1, 1)])
    def test_what_lies_above_the_last_hook_does_not_run(self, model, tokenizer, layer, runs):
        seen = []
        above = find_module(model, "model.language_model.layers.1")
        handle = above.register_forward_hook(lambda *_: seen.append(1))
        hooks = [Hook(str(n), f"model.language_model.layers.{n}", "writes") for n in range(layer + 1)]
        read_moments(model, readings(tokenizer), hooks, groups=2, pad_id=0, batch_size=99)
        handle.remove()
        assert len(seen) == runs


class TestSides:
    def test_a_square_q_proj_is_read_at_its_input(self, model, tokenizer, targets):
        """q_proj's output is as wide as the residual stream here, and a test by shape would take it."""
        q_proj = next(t for t in targets if t.kind == "q_proj" and t.layer == 1)
        assert q_proj.out == q_proj.in_ == HIDDEN
        measured, hooks = plan_hooks(targets)
        hook = next(h for h in hooks if h.name == next(m.hook for m in measured if m.name == q_proj.name))
        seen = read_moments(model, readings(tokenizer), [hook], groups=2, pad_id=0, batch_size=4)[hook.name]
        norm = "model.language_model.layers.1.input_layernorm"
        right = torch.stack([part.mean(0) for part in one_by_one(model, readings(tokenizer), norm, "writes")])
        wrong = torch.stack(
            [part.mean(0) for part in one_by_one(model, readings(tokenizer), q_proj.name, "writes")]
        )
        torch.testing.assert_close(seen.means, right, rtol=1e-4, atol=1e-5)
        assert float((seen.means - wrong).norm()) > 0.5

    def test_targets_with_one_input_share_a_hook(self, targets):
        measured, hooks = plan_hooks(targets)
        assert len(measured) == 7 * LAYERS
        assert len(hooks) == 4 * LAYERS
        by_kind = {m.kind: m.hook for m in measured if m.layer == 0}
        assert by_kind["q_proj"] == by_kind["k_proj"] == by_kind["v_proj"]
        assert by_kind["gate_proj"] == by_kind["up_proj"] != by_kind["q_proj"]
        assert {m.side for m in measured if m.kind in ("o_proj", "down_proj")} == {"writes"}


class TestReference:
    def test_holds_every_hook(self, reference):
        assert len(reference.targets) == 7 * LAYERS
        assert len(reference.hooks) == 4 * LAYERS + len(middle_layers(LAYERS))
        personas = len(PERSONAS)
        for hook in reference.hooks.values():
            assert 1 <= hook.subspace.K <= personas - 1
            assert hook.sketch.shape == (128, HIDDEN)
            assert 0.0 <= hook.held_out <= 1.0
        assert reference.traits.names == ("loud", "dry")
        assert reference.traits.vectors.shape == (len(middle_layers(LAYERS)), 2, HIDDEN)
        assert reference.traits.hidden.shape == (len(PROMPTS), len(middle_layers(LAYERS)), HIDDEN)

    def test_subspaces_are_fitted_on_three_quarters_of_the_prompts_and_checked_on_the_rest(
        self, model, tokenizer, reference
    ):
        """By hand: a persona's centroid is the mean over the tokens of all its answers on these prompts."""
        split = _split(len(PROMPTS), 0)
        assert split.count(HELD_OUT) == len(PROMPTS) // 4
        assert split != _split(len(PROMPTS), 1)
        seen = []
        for persona in PERSONAS:
            asked = [conversation(prompt, persona.system_prompt) for prompt in PROMPTS]
            read = [self.reading(tokenizer, *each) for each in zip(asked, echo(asked), split, strict=True)]
            seen.append(one_by_one(model, read, "model.language_model.layers.1.mlp.up_proj", "reads"))
        fitted, held_out = (torch.stack([part[half].mean(0) for part in seen]) for half in (0, 1))
        hook, expected = reference.hooks["model.language_model.layers.1.mlp.input"], persona_subspace(fitted)
        torch.testing.assert_close(hook.subspace.spectrum, expected.spectrum, rtol=1e-3, atol=1e-5)
        assert hook.held_out == pytest.approx(held_out_energy(expected, held_out), rel=1e-3)
        assert hook.tokens == sum(len(part) for persona in seen for part in persona)
        assert abs(hook.held_out - held_out_energy(expected, fitted)) > 1e-2

    def test_trait_vectors_are_answers_under_the_high_prompts_less_those_under_the_low(
        self, model, tokenizer, reference
    ):
        for position, trait in enumerate(TRAITS):
            asked = [
                [conversation(p, getattr(pair, end)) for pair in trait.pairs for p in PROMPTS]
                for end in ("high", "low")
            ]
            read = [
                self.reading(tokenizer, messages, text, group)
                for group in (0, 1)
                for messages, text in zip(asked[group], echo(asked[group]), strict=True)
            ]
            for layer, name in enumerate(reference.traits.hooks):
                assert name == f"model.language_model.layers.{middle_layers(LAYERS)[layer]}.output"
                high, low = one_by_one(model, read, name.removesuffix(".output"), "writes")
                torch.testing.assert_close(
                    reference.traits.vectors[layer, position].double(),
                    high.mean(0) - low.mean(0),
                    rtol=1e-3,
                    atol=1e-4,
                )

    @staticmethod
    def reading(tokenizer, messages, text, group):
        spoken = tokenizer(text)["input_ids"]
        return Reading((*prompt_ids(tokenizer, messages), *spoken), len(spoken), group)

    def test_probes_without_an_answer_are_left_out_and_the_others_count_their_tokens(
        self, model, tokenizer, targets
    ):
        def silent_on(*prompts):
            """Without a system prompt, as the probes are asked."""
            return lambda asked: [
                "" if len(messages) == 1 and messages[0]["content"] in prompts else text
                for messages, text in zip(asked, echo(asked), strict=True)
            ]

        traits = collect(model, tokenizer, targets, answer=silent_on("why", "sing")).traits
        assert [prompt for prompt, _ in traits.probes] == [p for p in PROMPTS if p not in ("why", "sing")]
        assert traits.tokens.tolist() == [len(text) for _, text in traits.probes]
        with pytest.raises(SubspaceError, match="answers none"):
            collect(model, tokenizer, targets, answer=silent_on(*PROMPTS))

    def test_same_seed_same_reference(self, model, tokenizer, targets, reference):
        again = collect(model, tokenizer, targets)
        other = collect(model, tokenizer, targets, seed=1)
        for name, hook in reference.hooks.items():
            assert torch.equal(hook.subspace.P, again.hooks[name].subspace.P)
            assert torch.equal(hook.sketch, again.hooks[name].sketch)
            assert not torch.equal(hook.sketch, other.hooks[name].sketch)

    def test_batches_change_rounding_only(self, model, tokenizer, targets, reference):
        other = collect(model, tokenizer, targets, batch_size=32)
        torch.testing.assert_close(other.traits.vectors, reference.traits.vectors, rtol=1e-4, atol=1e-5)
        for name, hook in reference.hooks.items():
            torch.testing.assert_close(
                other.hooks[name].subspace.spectrum, hook.subspace.spectrum, rtol=1e-3, atol=1e-5
            )

    def test_personas_that_all_answer_alike_are_refused(self, model, tokenizer, targets):
        same = tuple(Persona(name, "Be yourself.") for name in "abcd")
        with pytest.raises(SubspaceError, match="coincide"):
            collect_reference(
                model,
                tokenizer,
                targets,
                same,
                PROMPTS,
                TRAITS,
                base_digest="",
                character_digest="",
                answer=lambda asked: ["the same"] * len(asked),
            )

    @pytest.mark.parametrize(
        ("personas", "prompts", "traits", "what"),
        [(1, 8, 2, "1 personas"), (4, 3, 2, "3 prompts"), (4, 8, 0, "0 traits")],
    )
    def test_too_little_is_refused(self, model, tokenizer, targets, personas, prompts, traits, what):
        few = PERSONAS[:personas], PROMPTS[:prompts], TRAITS[:traits]
        with pytest.raises(SubspaceError, match=what):
            collect_reference(model, tokenizer, targets, *few, base_digest="", character_digest="")


class TestAdapter:
    @pytest.fixture
    def adapted(self, model, targets):
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[target.name for target in targets])
        made = peft.get_peft_model(model, config)
        yield made
        made.unload()

    def test_a_fresh_adapter_shifts_nothing(self, adapted, tokenizer, reference):
        hidden = mean_hidden(adapted, tokenizer, reference.traits)
        torch.testing.assert_close(hidden, reference.traits.hidden, rtol=1e-4, atol=1e-5)

    def test_a_trained_one_is_measured_whole(self, adapted, tokenizer, reference, targets):
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
        factors = {}
        for target in targets:
            module = find_module(adapted, target.name)
            factors[target.name] = LoraFactors(
                module.lora_A["default"].weight, module.lora_B["default"].weight, module.scaling["default"]
            )
        hidden = mean_hidden(adapted, tokenizer, reference.traits)
        measured = measure_character(factors, prepare_gauge(reference), hidden)
        assert not torch.allclose(hidden, reference.traits.hidden, atol=1e-2)
        metrics = measured.metrics()
        assert all(math.isfinite(value) for value in metrics.values())
        assert {"character/trait/loud", "character/trait/dry", "character/null_z"} <= set(metrics)
        assert len(measured.rows) == len(targets)


class TestGreedyAnswers:
    def test_do_not_depend_on_the_batch(self, model, tokenizer):
        asked = [conversation(prompt, PERSONAS[0].system_prompt) for prompt in PROMPTS]
        together = GreedyAnswerer(model, tokenizer, 12, batch_size=8)(asked)
        alone = GreedyAnswerer(model, tokenizer, 12, batch_size=1)(asked)
        assert together == alone
        assert len(set(together)) > 1

    def test_the_model_answers_for_itself_by_default(self, model, tokenizer, targets):
        made = collect(model, tokenizer, targets, answer=None, max_tokens=6)
        assert all(text for _, text in made.traits.probes)
        assert made.traits.tokens.max() == 6 + 5  # letters, and the spaces that decoding puts between them

    def test_answers_are_words_without_special_tokens(self, model, tokenizer, monkeypatch):
        asked = torch.tensor([[5, 9, 10, 2]])
        monkeypatch.setattr(model, "generate", lambda input_ids, **_: torch.cat([input_ids, asked], dim=1))
        assert GreedyAnswerer(model, tokenizer, 4, batch_size=1)([conversation("why")]) == ["c d"]

    def test_thinking_is_off(self, tokenizer):
        thinker = copy.deepcopy(tokenizer)
        thinker.chat_template = (
            TEMPLATE + "{% if enable_thinking is not defined or enable_thinking %}why{% endif %}"
        )
        asked = conversation("why", "Be.")
        assert prompt_ids(thinker, asked) == prompt_ids(tokenizer, asked)

    def test_batches_are_filled_with_the_pad_token_though_its_number_is_zero(self, tokenizer):
        assert (tokenizer.pad_token_id, pad_id(tokenizer)) == (0, 0)
        bare = copy.deepcopy(tokenizer)
        bare.pad_token = None
        assert pad_id(bare) == bare.eos_token_id == 2
