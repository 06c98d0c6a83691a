"""Every option of PEFT's own LoraConfig, on every family: merged as stock PEFT merges it, or refused by name."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import LoraRuntimeConfig

from skippy.errors import AdapterError
from skippy.models.targets import FAMILIES, find_targets
from skippy.stores.adapter_options import OPTIONS
from skippy.stores.adapters import read_adapter
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint
from tests.models.families import auto_class, build

# Option → configs that switch it on. {first} and {kind} are a target's name and kind in the family at hand.
HONOURED = {
    "peft_type": [{}],
    "r": [{"r": 3}],
    "lora_alpha": [{"lora_alpha": 5}],
    "use_rslora": [{"use_rslora": True}],
    "rank_pattern": [
        {"rank_pattern": {"{kind}": 2}},
        {"rank_pattern": {"^{first}": 1, "layers.1.*": 5}, "use_rslora": True},
    ],
    "alpha_pattern": [{"alpha_pattern": {"{first}": 16, ".*down_proj": 3}}],
    "use_dora": [{"use_dora": True}, {"use_dora": True, "alpha_pattern": {"{kind}": 32}}],
    "modules_to_save": [{"modules_to_save": ["input_layernorm"]}],
    "target_modules": [
        {"target_modules": "all-linear"},
        {"target_modules": r".*layers\.1\..*(o|down)_proj"},
        {"target_modules": ["{first}", "down_proj"]},
    ],
    "exclude_modules": [{"exclude_modules": ["{kind}"]}, {"exclude_modules": r".*layers\.0\..*"}],
    "layers_to_transform": [{"layers_to_transform": [1]}, {"layers_to_transform": 0}],
    "layers_pattern": [{"layers_to_transform": [0], "layers_pattern": "layers"}],
    "init_lora_weights": [
        {"init_lora_weights": init} for init in (False, "gaussian", "orthogonal", "mica", "eva")
    ],
    "eva_config": [{"init_lora_weights": "eva", "eva_config": EvaConfig(rho=1.5)}],
    "lora_dropout": [{"lora_dropout": 0.3}],
    "bias": [{"bias": "none"}],
    "task_type": [{"task_type": "CAUSAL_LM"}],
    "inference_mode": [{"inference_mode": True}],
    "revision": [{"revision": "main"}],
    "auto_mapping": [{"auto_mapping": {"base_model_class": "Any"}}],
    "peft_version": [{"peft_version": "0.5.0"}],
    "base_model_name_or_path": [{"base_model_name_or_path": "someone/else"}],
    "megatron_core": [{"megatron_core": "elsewhere"}],
    "qalora_group_size": [{"qalora_group_size": 8}],
    "runtime_config": [{"runtime_config": LoraRuntimeConfig(ephemeral_gpu_offload=True)}],
}
# Option → values, as they stand in adapter_config.json, that a merge cannot honour.
REFUSED = {
    "peft_type": ["IA3", "ADALORA", "LOHA"],
    "bias": ["all", "lora_only"],
    "init_lora_weights": ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", 3],
    "fan_in_fan_out": [True],
    "lora_bias": [True],
    "megatron_config": [{"hidden_size": 8}],
    "trainable_token_indices": [[7], {"embed_tokens": [7]}],
    "loftq_config": [{"loftq_bits": 4}],
    "corda_config": [{}],
    "lora_ga_config": [{}],
    "velora_config": [{}],
    "alora_invocation_tokens": [[1, 2]],
    "use_qalora": [True],
    "monteclora_config": [{}],
    "layer_replication": [[[0, 1], [0, 1]]],
    "target_parameters": [["experts.gate_up_proj"]],
    "use_bdlora": [{}, {"nblocks": 2}],
    "arrow_config": [{}, {"top_k": 2}],
    "kasa_config": [{}],
    "ensure_weight_tying": [True],
    "rank_pattern": [{"q_proj": 0}, {"q_proj": 2.5}, ["q_proj"]],
    "alpha_pattern": [{"q_proj": "8"}],
    "use_dora": ["yes"],
    "modules_to_save": ["lm_head"],
    "layers_to_transform": ["0"],
    "an_option_of_next_year": [True, 1, "on", {}],
}


def undecided(config_class: type) -> set[str]:
    """Options of a PEFT config that nobody has decided about."""
    return {each.name for each in fields(config_class)} - ((set(HONOURED) | set(REFUSED)) & set(OPTIONS))


def test_every_option_of_peft_is_decided():
    """A new release of PEFT with a new option fails here, not in somebody's merge."""
    assert not undecided(LoraConfig)


def test_a_new_option_would_be_noticed():
    @dataclass
    class Newer(LoraConfig):
        use_magic: bool = False

    assert undecided(Newer) == {"use_magic"}


class Zoo:
    """A saved tiny base of each family, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def base(self, family: str) -> Path:
        path = self.folder / family
        if not path.is_dir():
            model, _, _ = build(family)
            model.save_pretrained(path)
        return path

    def model(self, family: str):
        return auto_class(family).from_pretrained(self.base(family), dtype=torch.float32)

    def names(self, family: str) -> list[str]:
        checkpoint = Checkpoint.open(self.base(family))
        return [target.name for target in find_targets(checkpoint.config, checkpoint.shapes)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def filled(template, names: dict[str, str]):
    """The template with its {names} filled in, at any depth."""
    if isinstance(template, str):
        for name, value in names.items():
            template = template.replace("{" + name + "}", value)
        return template
    if isinstance(template, dict):
        return {filled(key, names): filled(value, names) for key, value in template.items()}
    return [filled(each, names) for each in template] if isinstance(template, list) else template


def train(model, config: LoraConfig, destination: Path) -> Path:
    """An adapter in PEFT's own hand, with every trained tensor moved."""
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(destination)
    return destination


# Options that only describe: one family shows it.
DESCRIBES = set(HONOURED) - {
    *("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "target_modules"),
    *("exclude_modules", "layers_to_transform", "init_lora_weights"),
}
CASES = [
    (family, option, number)
    for family in sorted(FAMILIES)
    for option, configs in HONOURED.items()
    for number in range(len(configs))
    if family == "llama" or option not in DESCRIBES
]


@pytest.mark.parametrize(("family", "option", "number"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_honoured_is_what_peft_gives(zoo, tmp_path, family, option, number):
    names = zoo.names(family)
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    asked = filled(HONOURED[option][number], {"first": names[0], "kind": kinds[0]})
    adapter = train(
        zoo.model(family), LoraConfig(**{"r": 4, "target_modules": kinds, **asked}), tmp_path / "a"
    )
    merge_checkpoint(Checkpoint.open(zoo.base(family)), adapter, tmp_path / "merged")
    expected = PeftModel.from_pretrained(zoo.model(family), adapter).merge_and_unload().state_dict()
    merged, base = Checkpoint.open(tmp_path / "merged"), Checkpoint.open(zoo.base(family))
    for key in merged.tensors:
        assert torch.equal(merged.read(key), expected[key]), key
    assert any(not torch.equal(merged.read(key), base.read(key)) for key in merged.tensors)


@pytest.mark.filterwarnings("ignore")
def test_embeddings_and_head_saved_whole_are_peft_s_where_they_are_not_tied(zoo, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    adapter = train(zoo.model("llama"), config, tmp_path / "a")
    merge_checkpoint(Checkpoint.open(zoo.base("llama")), adapter, tmp_path / "merged")
    expected = PeftModel.from_pretrained(zoo.model("llama"), adapter).merge_and_unload().state_dict()
    merged = Checkpoint.open(tmp_path / "merged")
    assert all(torch.equal(merged.read(key), expected[key]) for key in merged.tensors)
    tied = train(
        zoo.model("gemma"),
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        tmp_path / "t",
    )
    with pytest.raises(AdapterError, match=r"ties to each other.*\n.*embed_tokens"):
        merge_checkpoint(Checkpoint.open(zoo.base("gemma")), tied, tmp_path / "other")


@pytest.fixture(scope="module")
def plain(zoo) -> Path:
    """An ordinary adapter whose config is then altered."""
    return train(
        zoo.model("llama"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), zoo.folder / "plain"
    )


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in REFUSED.items() for value in values]
)
def test_what_is_not_honoured_is_refused_by_name(zoo, plain, option, value):
    read_adapter(plain)  # unaltered, it is read
    path = plain / "adapter_config.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {option: value}))
    try:
        with pytest.raises(AdapterError, match=rf"does not honour(.*\n)*.*found: .*{option}=") as refusal:
            read_adapter(plain)
    finally:
        path.write_text(kept)
    assert str(path) in refusal.value.where


def test_options_of_2023_and_of_next_year_at_null_are_merged(plain):
    path = plain / "adapter_config.json"
    kept = path.read_text()
    old = (
        "r",
        "lora_alpha",
        "target_modules",
        "bias",
        "peft_type",
        "task_type",
        "fan_in_fan_out",
        "inference_mode",
    )
    of_2023 = {key: value for key, value in json.loads(kept).items() if key in old}
    for altered in (
        of_2023,
        of_2023 | {"merge_weights": False, "enable_lora": None},
        json.loads(kept) | {"new": None},
    ):
        path.write_text(json.dumps(altered))
        try:
            assert read_adapter(plain).factors
        finally:
            path.write_text(kept)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_relative_to_another_base_is_merged_once_peft_has_converted_it(zoo, tmp_path, init):
    """PiSSA and OLoRA move the base as they start; as saved, their factors are far from any change of it."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=init)
    adapted = get_peft_model(zoo.model("llama"), config)
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1.01)
    adapted.save_pretrained(tmp_path / "raw")
    adapted.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    base = Checkpoint.open(zoo.base("llama"))
    with pytest.raises(
        AdapterError, match=rf"init_lora_weights='{init}'(.*\n)*.*path_initial_model"
    ) as refusal:
        merge_checkpoint(base, tmp_path / "raw", tmp_path / "merged")
    assert "adapter_config.json" in refusal.value.where
    merge_checkpoint(base, tmp_path / "converted", tmp_path / "merged")
    expected = adapted.merge_and_unload().state_dict()
    merged = Checkpoint.open(tmp_path / "merged")
    for key in merged.tensors:
        torch.testing.assert_close(merged.read(key), expected[key], rtol=0, atol=1e-5)
