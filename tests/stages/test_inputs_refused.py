"""What is no base is refused by every stage in the same sentence, before anything is made of it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from skippy.config import EvalConfig, MergeConfig, SubspaceConfig, SvdConfig, TrainConfig
from skippy.errors import CheckpointError
from skippy.resolve.bases import open_base
from skippy.resolve.subjects import find_subject
from skippy.stages import evaluate, merge, subspace, svd, train
from tests.stages.tiny_checkpoint import write_checkpoint
from tests.stores.quantised import KINDS, quantise

STAGES = {
    "svd": (svd, SvdConfig),
    "subspace": (subspace, SubspaceConfig),
    "train": (train, TrainConfig),
    "merge": (merge, MergeConfig),
    "eval": (evaluate, EvalConfig),
}


@pytest.mark.parametrize("stage", sorted(STAGES))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_quantised_base(tracker, tmp_path, stage, kind):
    path = quantise(write_checkpoint(tmp_path / "plain"), tmp_path / kind, kind)
    module, config = STAGES[stage]
    with pytest.raises(CheckpointError, match="is quantised; skippy needs the plain weights"):
        module.run(config(base_model=str(path)), tracker)


def test_a_quantised_or_broken_model_to_evaluate(tracker, tmp_path):
    plain = write_checkpoint(tmp_path / "plain")
    base = open_base(str(plain), tracker)
    assert find_subject(str(plain), "lab", base, tracker).digest == base.digest
    with pytest.raises(CheckpointError, match="is quantised"):
        find_subject(str(quantise(plain, tmp_path / "fp8", "fp8")), "lab", base, tracker)
    file = plain / "model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("down_proj.weight"))
    tensors[key][0, 0] = torch.nan
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=rf"not finite.*\n.*{key} in .*model\.safetensors"):
        find_subject(str(plain), "lab", base, tracker)
    with pytest.raises(CheckpointError, match="not finite"):
        svd.run(SvdConfig(base_model=str(plain)), tracker)
