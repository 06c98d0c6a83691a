"""Type and rounding of what a merge writes: float32 throughout, or the base's own, to the nearest or by chance."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import INDEX_FILE, Checkpoint
from skippy.stores.merging import merge_checkpoint
from tests.core.spectral.single_target import dense_delta
from tests.stores.test_merging import make


@pytest.mark.parametrize("shard", ["50GB", "40KB"])
def test_float32_keeps_the_delta_whole_and_loads_as_what_it_says(tmp_path, shard):
    base = make(tmp_path, torch.bfloat16, shard=shard, size=3e-4)
    same = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "same")
    wide = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "wide", dtype="float32")
    assert same.delta_error > 0.2
    assert wide.delta_error < 1e-4
    factors, merged = read_adapter(tmp_path / "adapter").factors, Checkpoint.open(tmp_path / "wide")
    live = AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype="auto")
    assert live.dtype == torch.float32
    for key, tensor in live.state_dict().items():
        exact = base.read(key).float()
        if key.removesuffix(".weight") in factors:
            exact = exact + dense_delta(factors[key.removesuffix(".weight")])
        assert torch.equal(tensor, exact)
        assert torch.equal(merged.read(key), exact)
    card = verify_checkpoint(tmp_path / "wide")
    assert card["dtype"] == "float32"
    assert card["digest"] == merged.digest() == wide.digest
    assert card["base_digest"] == base.digest()
    if (tmp_path / "wide" / INDEX_FILE).is_file():
        total = json.loads((tmp_path / "wide" / INDEX_FILE).read_text())["metadata"]["total_size"]
        assert total == sum(info.nbytes for info in merged.tensors.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_keeps_a_small_delta_on_average(tmp_path, dtype):
    """Nearest rounding loses most of it, always the same part: averaging over nothing helps."""
    base = make(tmp_path, dtype, size=1e-4 if dtype == torch.bfloat16 else 1e-5)
    accounts = [
        merge_checkpoint(base, tmp_path / "adapter", tmp_path / str(seed), rounding="stochastic", seed=seed)
        for seed in range(12)
    ]
    nearest = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "nearest")
    assert len({account.digest for account in accounts}) == 12
    again = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "again", rounding="stochastic", seed=0)
    assert again.digest == accounts[0].digest
    kept = {"stochastic": 0.0, "nearest": 0.0, "wanted": 0.0}
    for name, factors in read_adapter(tmp_path / "adapter").factors.items():
        key, delta = f"{name}.weight", dense_delta(factors).double()
        kept["wanted"] += float(delta.square().sum())
        for label, paths in {"stochastic": accounts, "nearest": [nearest]}.items():
            mean = torch.stack([Checkpoint.open(each.path).read(key).double() for each in paths]).mean(0)
            kept[label] += float((delta * (mean - base.read(key).double())).sum())
    assert kept["stochastic"] / kept["wanted"] == pytest.approx(1, abs=0.1)
    assert kept["nearest"] / kept["wanted"] < 0.9
    assert verify_checkpoint(tmp_path / "0")["rounding"] == "stochastic"
