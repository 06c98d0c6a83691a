"""What people bring as adapters: read in full and honoured, or refused by file and tensor; what is odd is said."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from benchmarks.adapter_files import write_adapter
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, CheckpointError, SkippyError
from skippy.stores import updates
from skippy.stores.adapter_fit import fit_to_base, name_foreign_base
from skippy.stores.adapter_options import OPTIONS
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint
from tests.core.spectral.single_target import dense_delta

NAMES = tuple(f"model.layers.{n}.self_attn.{kind}" for n in range(2) for kind in ("q_proj", "o_proj"))
PREFIX = "base_model.model."


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write_base(
    folder: Path, names=NAMES, config: dict | None = None, extra: dict | None = None
) -> Checkpoint:
    folder.mkdir(parents=True)
    tensors = {f"{name}.weight": draw(6, 4, seed=n) for n, name in enumerate(names)} | (extra or {})
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return Checkpoint.open(folder)


def write(folder: Path, names=NAMES, size: float = 0.1, **config) -> Path:
    factors = {
        name: LoraFactors(draw(2, 4, seed=n) * size, draw(6, 2, seed=9 + n), 2.0)
        for n, name in enumerate(names)
    }
    path = write_adapter(folder, factors) / "adapter_config.json"
    kinds = sorted({name.rpartition(".")[2] for name in names})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": kinds} | config))
    return folder


def alter(folder: Path, tensors: dict) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file({key: each for key, each in (load_file(path) | tensors).items() if each is not None}, path)
    return folder


class TestTargets:
    def test_half_of_the_targets_missing_is_refused_by_name(self, tmp_path):
        base = write_base(tmp_path / "base")
        fit_to_base(read_adapter(write(tmp_path / "whole")), base.shapes)
        half = write(tmp_path / "half", names=NAMES[:2], target_modules=["q_proj", "o_proj"])
        with pytest.raises(
            AdapterError, match=r"lacks targets(.*\n)*.*2 missing: model\.layers\.1\.self_attn\.o_proj"
        ):
            merge_checkpoint(base, half, tmp_path / "merged")
        for honest in ({"layers_to_transform": [0]}, {"target_modules": r".*layers\.0\..*"}):
            path = half / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | honest))
            assert fit_to_base(read_adapter(half), base.shapes)

    @pytest.mark.parametrize(
        "pattern",
        [
            {"rank_pattern": {"(": 2}},
            {"target_modules": "("},
            {"layers_to_transform": [0], "layers_pattern": "("},
            {"target_modules": r"(?:[a-z0-9._]+)+!"},
            {"rank_pattern": {r"(?:(?:.*)*)*!": 2}},
            {"exclude_modules": ".*" * 9 + "!"},
            {"layers_to_transform": [0], "layers_pattern": r"(\w+\.?)+!"},
        ],
    )
    def test_a_pattern_that_is_none_or_runs_away_is_refused(self, tmp_path, pattern):
        base = write_base(tmp_path / "base")
        with pytest.raises(AdapterError, match="no regular expression"):
            merge_checkpoint(base, write(tmp_path / "a", **pattern), tmp_path / "merged")

    def test_the_patterns_that_are_met_are_taken(self, tmp_path):
        """The twin: such as trainers write them, with several open ends."""
        met = r"(?:.*?(?:language|layers).*?(?:self_attn|mlp).*?(?:[qo]_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.x)"
        layers = {"layers_to_transform": [0, 1], "layers_pattern": ["blocks?", "layers"]}
        base = write_base(tmp_path / "base")
        for number, config in enumerate(({"target_modules": met}, layers)):
            adapter = write(tmp_path / f"a{number}", **config)
            assert merge_checkpoint(base, adapter, tmp_path / f"m{number}").targets == 4

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("model.layers.", "model.language_model.layers."),
            ("language_model.model.layers.", "model.language_model.layers."),
            ("model.language_model.layers.", "model.layers."),
        ],
    )
    def test_names_of_another_release_are_translated_and_it_is_said(self, tmp_path, theirs, ours):
        base = write_base(tmp_path / "base", [name.replace("model.layers.", ours) for name in NAMES])
        adapter = write(tmp_path / "a", [name.replace("model.layers.", theirs) for name in NAMES])
        account = merge_checkpoint(base, adapter, tmp_path / "merged")
        assert account.targets == 4
        assert "another release" in account.notes[0]
        assert f"{ours}0.self_attn.o_proj.weight" in account.notes[0]
        name = f"{ours}1.self_attn.o_proj"
        factors = fit_to_base(read_adapter(adapter), base.shapes).factors[name]
        merged = Checkpoint.open(tmp_path / "merged").read(f"{name}.weight")
        torch.testing.assert_close(merged, base.read(f"{name}.weight") + dense_delta(factors))

    def test_names_are_translated_only_where_all_of_them_then_fit(self, tmp_path):
        names = [name.replace("model.", "model.language_model.", 1) for name in NAMES[:3]]
        base = write_base(tmp_path / "base", names)
        with pytest.raises(AdapterError, match=r"does not fit.*\n.*model\.layers\.0\.self_attn"):
            merge_checkpoint(base, write(tmp_path / "a"), tmp_path / "merged")


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
    def test_factors_of_codes_are_refused_by_tensor(self, tmp_path, dtype):
        key = f"{PREFIX}{NAMES[0]}.lora_A.weight"
        adapter = alter(write(tmp_path / "a"), {key: torch.ones(2, 4).to(dtype)})
        with pytest.raises(AdapterError, match=rf"cannot be added(.*\n)*.*{NAMES[0]}\.lora_A.*adapter_model"):
            read_adapter(adapter)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_factor_that_is_not_finite_is_refused_by_tensor(self, tmp_path, value):
        key = f"{PREFIX}{NAMES[1]}.lora_B.weight"
        adapter = alter(write(tmp_path / "a"), {key: torch.full((6, 2), value)})
        with pytest.raises(
            AdapterError, match=rf"not finite.*\n.*{NAMES[1]}\.lora_B\.weight in .*adapter_model"
        ):
            read_adapter(adapter)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_factors_of_half_precision_are_widened(self, tmp_path, dtype):
        base, adapter = write_base(tmp_path / "base"), write(tmp_path / "a")
        path = adapter / "adapter_model.safetensors"
        save_file({key: each.to(dtype) for key, each in load_file(path).items()}, path)
        merge_checkpoint(base, adapter, tmp_path / "merged")
        factors = read_adapter(adapter).factors[NAMES[0]]
        merged = Checkpoint.open(tmp_path / "merged").read(f"{NAMES[0]}.weight")
        assert torch.equal(merged, base.read(f"{NAMES[0]}.weight") + dense_delta(factors))

    def test_dora_needs_its_magnitudes_and_others_must_have_none(self, tmp_path):
        key = f"{PREFIX}{NAMES[0]}.lora_magnitude_vector"
        with pytest.raises(
            AdapterError, match=r"do not fit together(.*\n)*.*lora_magnitude_vector of shape \(out,\)"
        ):
            read_adapter(write(tmp_path / "without", use_dora=True))
        with pytest.raises(AdapterError, match="do not fit together"):
            read_adapter(alter(write(tmp_path / "with"), {key: torch.ones(6)}))
        wrong = {f"{PREFIX}{name}.lora_magnitude_vector": torch.ones(5) for name in NAMES}
        with pytest.raises(AdapterError, match=r"do not fit together(.*\n)*.*lora_magnitude \(5,\)"):
            read_adapter(alter(write(tmp_path / "short", use_dora=True), wrong))

    def test_a_pickle_is_never_opened(self, tmp_path):
        adapter = write(tmp_path / "a")
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(AdapterError, match=r"cannot be read(.*\n)*.*a pickle, which is never opened"):
            read_adapter(adapter)


class TestSavedModules:
    NORM = "model.norm.weight"

    def bring(self, tmp_path, **tensors) -> tuple[Checkpoint, Path]:
        base = write_base(tmp_path / "base", extra={self.NORM: torch.ones(4), "lm_head.weight": draw(8, 4)})
        adapter = write(tmp_path / "a", modules_to_save=["norm", "lm_head"])
        saved = {self.NORM: torch.full((4,), 1.5), "lm_head.weight": draw(8, 4, seed=3)} | tensors
        return base, alter(adapter, {PREFIX + key: each for key, each in saved.items()})

    @pytest.mark.parametrize("alpha", [1.0, 0.5])
    def test_they_replace_the_bases_and_the_dose_holds_for_them_too(self, tmp_path, alpha):
        base, adapter = self.bring(tmp_path)
        account = merge_checkpoint(base, adapter, tmp_path / "merged", alpha=alpha)
        merged = Checkpoint.open(tmp_path / "merged")
        assert torch.equal(merged.read(self.NORM), torch.full((4,), 1 + 0.5 * alpha))
        if alpha == 1.0:
            assert torch.equal(merged.read("lm_head.weight"), draw(8, 4, seed=3))
        assert account.targets == 4

    def test_what_does_not_belong_to_them_is_refused(self, tmp_path):
        base, adapter = self.bring(tmp_path, **{"model.embed_tokens.weight": draw(8, 4)})
        with pytest.raises(AdapterError, match=r"something else.*\n.*embed_tokens"):
            merge_checkpoint(base, adapter, tmp_path / "merged")
        other = write(tmp_path / "b", modules_to_save=["norm"])
        with pytest.raises(AdapterError, match="lacks the modules"):
            read_adapter(other)

    def test_another_shape_a_tied_head_or_nan_is_refused(self, tmp_path):
        base, adapter = self.bring(tmp_path, **{"lm_head.weight": draw(9, 4)})
        with pytest.raises(AdapterError, match=r"does not fit(.*\n)*.*\(9, 4\)(.*\n)*.*\(8, 4\)"):
            merge_checkpoint(base, adapter, tmp_path / "merged")
        alter(adapter, {f"{PREFIX}lm_head.weight": draw(8, 4)})
        config = base.path / "config.json"
        config.write_text(json.dumps({"tie_word_embeddings": True}))
        with pytest.raises(AdapterError, match=r"ties to each other.*\n.*lm_head"):
            merge_checkpoint(Checkpoint.open(base.path), adapter, tmp_path / "merged")
        config.write_text(json.dumps({"text_config": {"tie_word_embeddings": False}}))
        alter(adapter, {PREFIX + self.NORM: torch.full((4,), torch.nan)})
        with pytest.raises(CheckpointError, match=r"not finite.*\n.*norm\.weight in .*adapter_model"):
            merge_checkpoint(Checkpoint.open(base.path), adapter, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


class TestSeveral:
    def test_weights_and_dose_scale_each_of_them(self, tmp_path):
        base = write_base(tmp_path / "base")
        one, two = write(tmp_path / "one"), write(tmp_path / "two", names=NAMES[:1], target_modules=NAMES[:1])
        account = merge_checkpoint(base, [(one, 0.5), (two, -2.0)], tmp_path / "merged", alpha=0.5)
        merged = Checkpoint.open(tmp_path / "merged")
        for name in NAMES:
            delta = 0.25 * dense_delta(read_adapter(one).factors[name])
            if name == NAMES[0]:
                delta -= dense_delta(read_adapter(two).factors[name])
            torch.testing.assert_close(merged.read(f"{name}.weight"), base.read(f"{name}.weight") + delta)
        assert account.delta_error < 1e-5
        digests = [
            merge_checkpoint(base, [(one, weight)], tmp_path / str(weight)).adapter_digest
            for weight in (1, 2)
        ]
        assert len({*digests, account.adapter_digest}) == 3
        assert digests[0] == read_adapter(one).digest()

    def test_a_dose_of_dora_scales_its_change(self, tmp_path):
        base = write_base(tmp_path / "base")
        magnitudes = {f"{PREFIX}{name}.lora_magnitude_vector": draw(6, seed=5).abs() for name in NAMES}
        adapter = alter(write(tmp_path / "a", use_dora=True), magnitudes)
        whole, half = (
            merge_checkpoint(base, adapter, tmp_path / str(alpha), alpha=alpha).path for alpha in (1.0, 0.5)
        )
        for name in NAMES:
            W, W1, W2 = (Checkpoint.open(path).read(f"{name}.weight") for path in (base.path, whole, half))
            torch.testing.assert_close(W1.norm(dim=1), draw(6, seed=5).abs(), rtol=1e-5, atol=0)
            torch.testing.assert_close(W2, W + 0.5 * (W1 - W))


class TestSaid:
    def test_a_zero_adapter(self, tmp_path):
        base = write_base(tmp_path / "base")
        merge_checkpoint(base, write(tmp_path / "zero", size=0.0), tmp_path / "merged")
        assert verify_checkpoint(tmp_path / "merged")["notes"] == ["ΔW of the adapter zero is zero"]
        merge_checkpoint(base, write(tmp_path / "a"), tmp_path / "other")
        assert verify_checkpoint(tmp_path / "other")["notes"] == []

    def test_a_head_that_nobody_reads(self, tmp_path):
        head = {"lm_head.weight": draw(8, 4)}
        for tied in (True, False):
            base = write_base(tmp_path / f"base {tied}", config={"tie_word_embeddings": tied}, extra=head)
            merge_checkpoint(base, write(tmp_path / f"a {tied}"), tmp_path / f"merged {tied}")
            notes = verify_checkpoint(tmp_path / f"merged {tied}")["notes"]
            assert [note for note in notes if "ties lm_head" in note] == notes
            assert len(notes) == tied

    def test_another_base(self, tmp_path):
        adapter = read_adapter(write(tmp_path / "a", base_model_name_or_path="Qwen/Qwen3-8B"))
        assert name_foreign_base(adapter, ["/models/qwen3-8b/", ""]) == ""
        said = name_foreign_base(adapter, ["meta/Llama-3-8B"])
        assert said == "the adapter names Qwen/Qwen3-8B as its base, and was merged into meta/Llama-3-8B"
        assert name_foreign_base(read_adapter(write(tmp_path / "b")), ["x"]) == ""


def test_rows_that_peft_would_not_give_are_refused(tmp_path, monkeypatch):
    """The twin of every merge in these tests: a merge that is 1 % off in its scale does not pass."""
    base, adapter = write_base(tmp_path / "base"), write(tmp_path / "a")
    delta = updates.LowRank.delta
    monkeypatch.setattr(
        updates.LowRank, "delta", lambda self, rows, out=None: delta(self, rows, out).mul_(1.01)
    )
    with pytest.raises(AdapterError, match=r"not those that PEFT gives.*\n.*q_proj\.weight, row 0|o_proj"):
        merge_checkpoint(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=6) | st.just("LORA"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.sampled_from(sorted(OPTIONS)) | st.text(max_size=12), VALUES, max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CONFIGS)
@example(changes={"r": True})
@example(changes={"lora_alpha": float("inf")})
@example(changes={"rank_pattern": {".*": 2}})
def test_no_config_gives_anything_but_factors_or_one_refusal(tmp_path, changes):
    folder = tmp_path / "a"
    if not folder.exists():
        write(folder)
    path = folder / "adapter_config.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | changes))
    try:
        adapter = read_adapter(folder)
        fit_to_base(adapter, {f"{name}.weight": (6, 4) for name in NAMES})
    except SkippyError as refusal:
        assert refusal.where  # noqa: PT017 - either outcome is right
    else:
        assert all(changes[key] is None or OPTIONS[key](changes[key]) for key in changes)
    finally:
        path.write_text(kept)
