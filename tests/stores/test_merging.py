"""A merge adds exactly ΔW, says what rounding took of it, and lands whole or not at all."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, Qwen3Config

from benchmarks.adapter_files import write_adapter
from skippy.core.basis import Basis
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, CheckpointError, ProjectorError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.stores import blocks, merge_work, merging
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint
from tests.core.spectral.single_target import dense_delta

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
TARGETS = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def make(directory: Path, dtype=torch.float32, shard="50GB", size=0.02):
    """A tiny base and a PEFT adapter with random A and B of energy `size`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG).to(dtype)
    model.save_pretrained(directory / "base", max_shard_size=shard)
    (directory / "base" / "tokenizer.json").write_text("{}")
    (directory / "base" / "chat_template.jinja").write_text("{{ messages }}")
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
    adapted.save_pretrained(directory / "adapter")
    return Checkpoint.open(directory / "base")


def random_bases(adapter) -> dict[str, Basis]:
    bases = {}
    for name, factors in adapter.factors.items():
        U = torch.linalg.qr(torch.randn(factors.B.shape[0], 3))[0]
        V = torch.linalg.qr(torch.randn(factors.A.shape[1], 3))[0]
        bases[name] = Basis(U, torch.ones(3), V)
    return bases


def peft_merged(directory: Path, dtype=torch.float32) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=dtype)
    return PeftModel.from_pretrained(model, directory / "adapter").merge_and_unload().state_dict()


@pytest.mark.parametrize("shard", ["50GB", "40KB"])
def test_agrees_with_peft_in_float32(tmp_path, shard):
    base = make(tmp_path, shard=shard)
    account = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).state_dict()
    expected = peft_merged(tmp_path)
    assert set(merged) == set(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(merged[key], tensor, rtol=0, atol=1e-7)
    assert account.targets == 14
    assert account.delta_error < 1e-5
    assert account.delta_cosine > 1 - 1e-9


@pytest.mark.parametrize("alpha", [1.0, 0.7, -1.0])
def test_alpha_scales_the_delta_of_every_target_and_of_nothing_else(tmp_path, alpha):
    base = make(tmp_path)
    merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged", alpha=alpha)
    merged, factors = Checkpoint.open(tmp_path / "merged"), read_adapter(tmp_path / "adapter").factors
    assert verify_checkpoint(tmp_path / "merged")["alpha"] == alpha
    for key in base.tensors:
        delta = factors.get(key.removesuffix(".weight"))
        wanted = base.read(key) + alpha * dense_delta(delta) if delta else base.read(key)
        assert torch.equal(merged.read(key), wanted) or delta
        torch.testing.assert_close(merged.read(key), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_once_to_the_type_of_the_base(tmp_path, dtype):
    base = make(tmp_path, dtype)
    merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    merged = Checkpoint.open(tmp_path / "merged")
    for name, factors in read_adapter(tmp_path / "adapter").factors.items():
        exact = base.read(f"{name}.weight").float() + dense_delta(factors)
        assert torch.equal(merged.read(f"{name}.weight"), exact.to(dtype))


@pytest.mark.parametrize("elements", [merge_work.CHUNK_ELEMENTS, 19 * 32])
def test_account_of_what_bf16_keeps(tmp_path, monkeypatch, elements):
    """The smaller the delta, the more of it rounding eats; the figures are those of the dense tensors."""
    monkeypatch.setattr(merge_work, "CHUNK_ELEMENTS", elements)
    errors = []
    for size in (3e-1, 3e-4):
        base = make(tmp_path / str(size), torch.bfloat16, size=size)
        adapter = read_adapter(tmp_path / str(size) / "adapter")
        bases = random_bases(adapter)
        account = merge_checkpoint(base, adapter.path, tmp_path / str(size) / "merged", bases=bases)
        merged = Checkpoint.open(tmp_path / str(size) / "merged")
        stored, wanted, left, right = [], [], 0.0, 0.0
        for name, factors in adapter.factors.items():
            delta = merged.read(f"{name}.weight").double() - base.read(f"{name}.weight").double()
            stored.append(delta.flatten())
            wanted.append(dense_delta(factors).double().flatten())
            left += float((bases[name].U.double().mT @ delta).square().sum())
            right += float((delta @ bases[name].V.double()).square().sum())
        kept, exact = torch.cat(stored), torch.cat(wanted)
        assert account.delta_error == pytest.approx(float((kept - exact).norm() / exact.norm()), rel=1e-6)
        assert account.delta_cosine == pytest.approx(
            float(kept @ exact / kept.norm() / exact.norm()), rel=1e-6
        )
        energy = float(kept.square().sum())
        assert account.leakage.rho_left == pytest.approx(left / energy, rel=1e-6)
        assert account.leakage.rho_right == pytest.approx(right / energy, rel=1e-6)
        assert account.metrics() == {
            "merge/alpha": 1.0,
            "merge/targets": 14.0,
            "merge/delta_error": account.delta_error,
            "merge/delta_cosine": account.delta_cosine,
            "merge/delta_norm": account.delta_norm,
            "merge/rho_left": account.leakage.rho_left,
            "merge/rho_right": account.leakage.rho_right,
        }
        errors.append(account.delta_error)
    assert errors[0] < 0.05 < 0.2 < errors[1]


def test_leakage_of_a_constrained_delta_is_zero_in_float32_and_not_after_rounding(tmp_path):
    """A delta inside the complement stays there in a float32 base; bf16 storage leaks, and is seen to."""
    leaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = make(tmp_path / str(dtype), dtype, size=1e-3)
        adapter = read_adapter(tmp_path / str(dtype) / "adapter")
        bases = random_bases(adapter)
        inside = {
            name: LoraFactors(
                A=each.A - each.A @ bases[name].V @ bases[name].V.mT,
                B=each.B - bases[name].U @ (bases[name].U.mT @ each.B),
                scale=each.scale,
            )
            for name, each in adapter.factors.items()
        }
        path = write_adapter(tmp_path / str(dtype) / "inside", inside)
        leaks[dtype] = merge_checkpoint(base, path, tmp_path / str(dtype) / "merged", bases=bases).leakage
    assert leaks[torch.float32].rho_left < 1e-7
    assert leaks[torch.float32].rho_right < 1e-7
    assert leaks[torch.bfloat16].rho_left > 1e-4


def test_layout_companions_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8192)  # most tensors are copied in several
    base = make(tmp_path, shard="40KB")
    steps = []
    account = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged", progress=steps.append)
    assert len(steps) == len(base.tensors)
    assert len(base.files) > 1
    names = {path.name for path in (tmp_path / "base").iterdir()} | {"skippy.json"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names
    assert not any(path.stat().st_mode & 0o222 for path in (tmp_path / "merged").iterdir()), "read-only"
    merged = Checkpoint.open(tmp_path / "merged")
    for key, info in base.tensors.items():
        copy = merged.tensors[key]
        assert (copy.file.name, copy.start, copy.stop) == (info.file.name, info.start, info.stop)
    card = verify_checkpoint(tmp_path / "merged")
    assert card["base_digest"] == base.digest() == account.base_digest
    assert card["digest"] == merged.digest() == account.digest != account.base_digest
    assert card["adapter_digest"] == read_adapter(tmp_path / "adapter").digest()
    for figure in ("targets", "delta_error", "delta_cosine"):
        assert card[figure] == getattr(account, figure)
    assert card["leakage"] is None
    assert set(card["files"]) == names - {"skippy.json"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def rewrite(path, text):
    path.chmod(0o644)
    path.write_text(text)


@pytest.mark.parametrize(
    "alter",
    [
        lambda d: rewrite(d / "tokenizer.json", "{ }"),
        lambda d: (d / "tokenizer.json").unlink(),
        lambda d: (d / "extra.bin").write_text(""),
        lambda d: (d / "skippy.json").unlink(),
        lambda d: rewrite(d / "skippy.json", "{}"),
    ],
    ids=["altered", "missing", "added", "no card", "empty card"],
)
def test_verify_notices(tmp_path, alter):
    merge_checkpoint(make(tmp_path), tmp_path / "adapter", tmp_path / "merged")
    verify_checkpoint(tmp_path / "merged")
    alter(tmp_path / "merged")
    with pytest.raises(CheckpointError):
        verify_checkpoint(tmp_path / "merged")


def assert_nothing_written(tmp_path):
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_adapter_of_another_base_writes_nothing(tmp_path):
    base = make(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    foreign = {key.replace("layers.1", "layers.7"): tensor for key, tensor in load_file(path).items()}
    save_file(foreign, path)
    with pytest.raises(AdapterError, match=r"does not fit.*\n.*layers\.7"):
        merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    assert_nothing_written(tmp_path)


def test_failure_midway_writes_nothing(tmp_path, monkeypatch):
    base = make(tmp_path)
    calls = []

    def fail(count):
        calls.append(count)
        if len(calls) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged", progress=fail)
    assert_nothing_written(tmp_path)
    monkeypatch.setattr(merging, "ROOM", 1e9)
    with pytest.raises(CheckpointError, match="not enough room"):
        merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize("shard", ["5GB", "40KB"], ids=["one file", "files side by side"])
def test_a_full_disk_is_named_and_nothing_is_kept(tmp_path, shard):
    """A limit on the size of a file stands for the disk: the kernel takes part of a write and refuses the rest."""
    base = make(tmp_path, shard=shard)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"cannot be written.*\n.*model.*\.weight into .*safetensors"
        ):
            merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_nothing_written(tmp_path)


def test_taken_destination_is_left_alone(tmp_path):
    base = make(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "precious").write_text("")
    with pytest.raises(CheckpointError, match="already taken"):
        merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["precious"]


def test_unused_target_is_an_error(tmp_path, monkeypatch):
    """The inventory is checked first; this is the second lock, for a plan that forgets a target."""
    base = make(tmp_path)
    plan = merging.lay_out

    def forgetful(*args):
        layout = plan(*args)
        kept = tuple(entry for entry in layout.entries if "layers.1.mlp.up" not in entry[0].key)
        return replace(layout, entries=kept)

    monkeypatch.setattr(merging, "lay_out", forgetful)
    monkeypatch.setattr(merging, "digest_of_hashes", lambda *_: "")
    with pytest.raises(AdapterError, match=r"not used.*\n(.*\n)*.*layers\.1\.mlp\.up_proj"):
        merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    assert_nothing_written(tmp_path)


def test_other_errors(tmp_path):
    base = make(tmp_path)
    adapter = read_adapter(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="another digest"):
        merge_checkpoint(base, adapter.path, tmp_path / "merged", base_digest="ab" * 32)
    bases = random_bases(adapter)
    bases.pop("model.layers.0.self_attn.q_proj")
    with pytest.raises(ProjectorError, match=r"layers\.0\.self_attn\.q_proj"):
        merge_checkpoint(base, adapter.path, tmp_path / "merged", bases=bases)
    huge = {
        name: LoraFactors(each.A * 1e30, each.B * 1e30, each.scale) for name, each in adapter.factors.items()
    }
    with pytest.raises(AdapterError, match="not finite in the type"):
        merge_checkpoint(base, write_adapter(tmp_path / "huge", huge), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_base_of_integers_or_with_gaps_is_refused(tmp_path):
    key = "x.weight"
    adapter = write_adapter(tmp_path / "adapter", {"x": LoraFactors(torch.ones(1, 2), torch.ones(2, 1), 1.0)})
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    file = tmp_path / "base" / "model.safetensors"
    save_file({key: torch.ones(2, 2, dtype=torch.int8)}, file)
    with pytest.raises(CheckpointError, match="quantised"):
        merge_checkpoint(Checkpoint.open(tmp_path / "base"), adapter, tmp_path / "merged")
    header = json.dumps({key: {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(CheckpointError, match="leave gaps"):
        merge_checkpoint(Checkpoint.open(tmp_path / "base"), adapter, tmp_path / "merged")
    assert_nothing_written(tmp_path)


def test_a_delta_that_rounding_eats_whole_is_all_error(tmp_path):
    base = make(tmp_path, torch.bfloat16, size=1e-9)
    account = merge_checkpoint(
        base,
        tmp_path / "adapter",
        tmp_path / "merged",
        bases=random_bases(read_adapter(tmp_path / "adapter")),
    )
    assert account.digest == account.base_digest
    assert (account.delta_error, account.delta_cosine) == (1.0, 0.0)
    assert account.leakage.rho_left == account.leakage.rho_right == 0.0


def test_zero_adapter_changes_nothing(tmp_path):
    base = make(tmp_path, torch.bfloat16, size=0.0)
    account = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    assert account.digest == account.base_digest
    assert (account.delta_error, account.delta_cosine) == (0.0, 1.0)
    assert json.loads((tmp_path / "merged" / "skippy.json").read_text())["targets"] == 14


MEMORY_PROGRAM = """
import json, resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from skippy.core.spectral.lora import LoraFactors
from benchmarks.adapter_files import write_adapter
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint

folder, side, count = Path(sys.argv[1]), 1024, 48
(folder / "base").mkdir()
names = [f"model.layers.{n}.self_attn.q_proj" for n in range(count)]
weight_map = {}
for n, name in enumerate(names):
    save_file({f"{name}.weight": torch.full((side, side), 0.1)}, folder / "base" / f"{n}.safetensors")
    weight_map[f"{name}.weight"] = f"{n}.safetensors"
(folder / "base" / "config.json").write_text("{}")
(folder / "base" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
factors = {name: LoraFactors(torch.ones(2, side), torch.ones(side, 2), 0.5) for name in names}
write_adapter(folder / "adapter", factors)
base = Checkpoint.open(folder / "base")
torch.ones(64, 64) @ torch.ones(64, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
base.digest()
merge_checkpoint(base, folder / "adapter", folder / "merged")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (side * side * 4))
"""


def test_memory_is_bounded_by_a_tensor(tmp_path):
    """48 weights of 4 MiB are hashed and merged; the process grows by a few of them, not by all."""
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(tmp_path)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(ended.stdout) < 16


def test_the_labs_merge_loads_with_its_own_class(tmp_path):
    """Qwen3-VL: targets sit under the language model, and the vision tower is copied as it is."""
    base = Checkpoint.open(LAB_CHECKPOINT)
    name = "model.language_model.layers.2.mlp.down_proj"
    out, in_ = base.shapes[f"{name}.weight"]
    delta = LoraFactors(A=torch.ones(2, in_) * 0.1, B=torch.ones(out, 2) * 0.1, scale=1.0)
    merge_checkpoint(base, write_adapter(tmp_path / "adapter", {name: delta}), tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "merged", dtype=torch.float32
    ).state_dict()
    stock = AutoModelForImageTextToText.from_pretrained(LAB_CHECKPOINT, dtype=torch.float32).state_dict()
    changed = [key for key in stock if not torch.equal(merged[key], stock[key])]
    assert changed == [f"{name}.weight"]
    AutoTokenizer.from_pretrained(tmp_path / "merged")
