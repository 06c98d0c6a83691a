"""What is loaded is what was asked for, does what it should, and errors are met before any work."""

import copy
import json
from fnmatch import fnmatch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from skippy.errors import AdapterError, CheckpointError
from skippy.models.hub import HUB_PATTERNS, NOT_NEEDED, fetch_checkpoint
from skippy.models.loading import (
    attach_adapter,
    hash_parameters,
    load_model,
    load_tokenizer,
)

PATTERN = r".*layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def save_adapter(directory, model, size=0.3):
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=PATTERN.replace(".*", r"(?!.*visual).*", 1))
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
    adapted.save_pretrained(directory)
    return directory


def test_load_model_takes_the_type_asked_for(checkpoint, model):
    loaded = load_model(checkpoint)
    assert type(loaded) is type(model)
    assert loaded.dtype == torch.float32
    assert not loaded.training
    assert load_model(checkpoint, dtype=torch.bfloat16).dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)


def test_on_a_cpu_weights_are_float32_whatever_the_file_holds(model, tmp_path):
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.float32


def test_a_weight_of_another_shape_is_refused(checkpoint):
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("q_proj.weight"))
    save_file(tensors | {key: tensors[key][:-1].clone()}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"another shape(.*\n)*.*q_proj"):
        load_model(checkpoint)


def test_load_model_errors(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no such directory"):
        load_model(tmp_path / "nowhere")
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("q_proj.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing from the checkpoint(.*\n)*.*q_proj"):
        load_model(checkpoint)
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "martian"}))
    with pytest.raises(CheckpointError, match="martian"):
        load_model(checkpoint)


def test_load_tokenizer(checkpoint, tmp_path):
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "<pad>"
    text = tokenizer.apply_chat_template([{"role": "user", "content": "why?"}], tokenize=False)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text == "<user>why?<end>"
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_tokenizer_without_a_token_to_pad_with_takes_the_last(tokenizer, tmp_path):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<end>"


def test_tokenizer_without_a_template(checkpoint):
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="without chat_template"):
        load_tokenizer(checkpoint)


def test_attach_adapter(checkpoint, tmp_path):
    path = save_adapter(tmp_path / "adapter", load_model(checkpoint))
    adapted = attach_adapter(load_model(checkpoint), path)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        difference = adapted(input_ids=tokens).logits - load_model(checkpoint)(input_ids=tokens).logits
    assert float(difference.abs().max()) > 1e-2
    assert not any(parameter.requires_grad for parameter in adapted.parameters())
    assert not any(module.training for module in adapted.modules())


def test_adapter_of_a_wrong_prefix_is_noticed(checkpoint, tmp_path):
    """PEFT loads it with no more than a warning."""
    path = save_adapter(tmp_path / "adapter", load_model(checkpoint)) / "adapter_model.safetensors"
    save_file(
        {key.replace("base_model.model.", "x."): tensor for key, tensor in load_file(path).items()}, path
    )
    with pytest.raises(AdapterError, match="changes nothing"), pytest.warns(UserWarning, match="missing"):
        attach_adapter(load_model(checkpoint), path.parent)


def test_fresh_adapter_may_have_no_effect(checkpoint, tmp_path):
    attach_adapter(
        load_model(checkpoint), save_adapter(tmp_path / "adapter", load_model(checkpoint), size=0.0)
    )


def test_attach_adapter_errors(checkpoint, tmp_path):
    with pytest.raises(AdapterError, match="cannot load the adapter"):
        attach_adapter(load_model(checkpoint), tmp_path / "nowhere")


def test_fetch_checkpoint(checkpoint, tmp_path, monkeypatch):
    assert fetch_checkpoint(str(checkpoint)) == checkpoint
    for name in (str(tmp_path / "nowhere"), "./nowhere/x", "nowhere", "a/b/c"):
        with pytest.raises(CheckpointError, match="does not exist"):
            fetch_checkpoint(name)


def test_fetch_checkpoint_knows_the_home_directory(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert fetch_checkpoint("~/model") == checkpoint


def test_of_the_hub_only_what_is_needed_is_fetched(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **options: asked.append((name, options)) or tmp_path,
    )
    assert fetch_checkpoint("nobody/nothing") == tmp_path
    patterns = {"allow_patterns": list(HUB_PATTERNS), "ignore_patterns": list(NOT_NEEDED)}
    assert asked == [("nobody/nothing", patterns)]
    assert not any(fnmatch("pytorch_model.bin", pattern) for pattern in HUB_PATTERNS)
    assert any(fnmatch("original/consolidated.00.safetensors", pattern) for pattern in NOT_NEEDED)


def test_fetch_checkpoint_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"neither a local directory.*\n.*nobody/nothing"):
        fetch_checkpoint("nobody/nothing")


def test_hash_is_of_the_base_alone(checkpoint):
    model = load_model(checkpoint)
    before = hash_parameters(model)
    assert hash_parameters(load_model(checkpoint)) == before
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    assert hash_parameters(adapted) == before
    with torch.no_grad():
        next(each for each in model.parameters()).view(-1)[0] += 1e-6
    assert hash_parameters(adapted) != before


def test_hash_is_of_names_types_and_shapes_but_not_of_their_order():
    def hashed(*parameters):
        return hash_parameters(torch.nn.ParameterDict(parameters))

    a, b = (("a", torch.ones(2, 3)), ("b", torch.zeros(6)))
    assert hashed(a, b) == hashed(b, a)
    whole = {
        hashed(a, b),
        hashed(("c", a[1]), b),
        hashed(("a", torch.ones(3, 2)), b),
        hashed(a, ("b", torch.zeros(3, dtype=torch.float64))),
    }
    assert len(whole) == 4


def test_hash_sees_an_in_place_merge(checkpoint, tmp_path):
    """The twin of the training guarantee: merging and unmerging does not give the same bytes back."""
    adapted = attach_adapter(
        load_model(checkpoint, dtype=torch.bfloat16),
        save_adapter(tmp_path / "adapter", load_model(checkpoint)),
    )
    before = hash_parameters(adapted)
    for _ in range(3):
        adapted.merge_adapter()
        adapted.unmerge_adapter()
    assert hash_parameters(adapted) != before
