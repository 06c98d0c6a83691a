"""One directory, one reading: two sets of weights, or codes in the place of weights, are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from skippy.errors import CheckpointError
from skippy.stores.checkpoints import Checkpoint
from tests.models.families import build
from tests.stores.quantised import KINDS, quantise


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "base"
    build("qwen3")[0].save_pretrained(path)
    return path


@pytest.fixture
def copy(plain, tmp_path) -> Path:
    """The plain base once more, to be altered."""
    path = tmp_path / "base"
    path.mkdir()
    for file in plain.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


class TestQuantised:
    @pytest.mark.parametrize("says_so", [True, False])
    @pytest.mark.parametrize("kind", sorted(KINDS))
    def test_codes_are_refused_in_one_sentence(self, plain, tmp_path, kind, says_so):
        Checkpoint.open(plain)
        path = quantise(plain, tmp_path / kind, kind, says_so=says_so)
        with pytest.raises(CheckpointError, match="is quantised; skippy needs the plain weights") as refusal:
            Checkpoint.open(path)
        assert refusal.value.where == str(path)
        assert ("quantization_config" in refusal.value.found) == says_so

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("hf_quant_config.json", {}),
            ("quantize_config.json", {"bits": 4}),
            ("config.json", {"text_config": {"quantization_config": {"quant_method": "gptq"}}}),
            ("config.json", {"compression_config": {"format": "x"}}),
        ],
    )
    def test_what_says_so_anywhere_is_believed(self, copy, file, content):
        (copy / file).write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="is quantised"):
            Checkpoint.open(copy)

    @pytest.mark.parametrize(
        "key", ["layers.0.up_proj.qweight", "x.weight.absmax", "x.weight.quant_state.nf4"]
    )
    def test_the_names_of_packed_codes_give_it_away(self, copy, key):
        file = copy / "model.safetensors"
        save_file(load_file(file) | {key: torch.ones(3)}, file)
        with pytest.raises(CheckpointError, match=f"is quantised(.*\n)*.*found: {key}"):
            Checkpoint.open(copy)

    def test_an_empty_entry_in_the_config_means_nothing(self, copy):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"quantization_config": None}))
        Checkpoint.open(copy)


class TestOneReading:
    def shard(self, path: Path) -> None:
        """The same weights, doubled, as an index and shards beside the single file."""
        doubled = {key: 2 * each for key, each in load_file(path / "model.safetensors").items()}
        save_file(doubled, path / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
        listed = dict.fromkeys(doubled, "model-00001-of-00001.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))

    def test_two_sets_of_weights_are_refused(self, copy):
        self.shard(copy)
        with pytest.raises(CheckpointError, match=r"two sets of weights(.*\n)*.*both(.*\n)*.*remove the one"):
            Checkpoint.open(copy)

    @pytest.mark.parametrize("kept", ["model.safetensors", "model-00001-of-00001.safetensors"])
    def test_of_either_alone_store_and_transformers_read_the_same(self, copy, kept):
        self.shard(copy)
        single = kept == "model.safetensors"
        for name in ("model.safetensors.index.json", "model-00001-of-00001.safetensors"):
            if single:
                (copy / name).unlink()
        if not single:
            (copy / "model.safetensors").unlink()
        checkpoint = Checkpoint.open(copy)
        live = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32).state_dict()
        assert all(torch.equal(checkpoint.read(key), live[key]) for key in checkpoint.tensors)

    def test_an_index_of_the_single_file_is_no_second_set(self, copy):
        keys = load_file(copy / "model.safetensors")
        listed = json.dumps({"weight_map": dict.fromkeys(keys, "model.safetensors")})
        (copy / "model.safetensors.index.json").write_text(listed)
        assert set(Checkpoint.open(copy).tensors) == set(keys)

    def test_an_adapter_beside_the_weights_is_refused(self, copy):
        """transformers would apply it without a word."""
        (copy / "adapter_config.json").write_text("{}")
        with pytest.raises(
            CheckpointError, match=r"a checkpoint and an adapter(.*\n)*.*adapter_config\.json"
        ):
            Checkpoint.open(copy)

    @pytest.mark.parametrize(
        "name", [3, None, ["a"], "../model.safetensors", "sub/x.safetensors", "weights.bin"]
    )
    def test_an_index_names_safetensors_beside_it(self, copy, name):
        keys = load_file(copy / "model.safetensors")
        (copy / "model.safetensors").rename(copy / "x.safetensors")
        index = copy / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(keys, "x.safetensors")}))
        Checkpoint.open(copy)
        index.write_text(json.dumps({"weight_map": dict.fromkeys(keys, "x.safetensors") | {"last": name}}))
        with pytest.raises(CheckpointError, match=r"damaged.*\n.*index\.json(.*\n)*.*found: last: "):
            Checkpoint.open(copy)

    @pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
    @pytest.mark.parametrize(
        "text", ["[" * 100_000, '{"a": ' * 100_000, '{"a": 1, "a": 2}', '{"a": NaN}', b"\xff"]
    )
    def test_hostile_json_is_one_message(self, copy, file, text):
        (copy / "model.safetensors").rename(copy / "x.safetensors")
        (copy / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(CheckpointError) as refusal:
            Checkpoint.open(copy)
        assert file in refusal.value.where


class TestFinite:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_a_weight_that_is_not_is_refused_by_file_and_tensor(self, copy, dtype, value):
        file = copy / "model.safetensors"
        tensors = {key: each.to(dtype) for key, each in load_file(file).items()}
        tensors["model.norm.weight"][3] = torch.finfo(dtype).min  # the largest finite magnitude passes
        save_file(tensors, file)
        Checkpoint.open(copy).digest()
        tensors["model.norm.weight"][3] = value
        save_file(tensors, file)
        with pytest.raises(
            CheckpointError, match=r"not finite.*\n.*model\.norm\.weight in .*model\.safetensors"
        ):
            Checkpoint.open(copy).digest()


def test_small_files_travel_and_weights_programs_and_pickles_do_not(copy, tmp_path):
    travels = [
        "tekken.json",
        "LICENSE",
        "NOTICE.txt",
        "additional_chat_templates/tool_use.jinja",
        "qwen.tiktoken",
    ]
    stays = [
        *(
            "pytorch_model.bin",
            "modeling.py",
            "README.md",
            ".gitattributes",
            "skippy.json",
            "training_args.bin",
        ),
        *(
            "original/params.json",
            "consolidated.safetensors",
            "model.safetensors.index.json.bak",
            "tokenizer.pkl",
        ),
    ]
    for name in [*travels, *stays]:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(name)
    (tmp_path / "to").mkdir()
    names = Checkpoint.open(copy).copy_companions(tmp_path / "to")
    found = {
        file.relative_to(tmp_path / "to").as_posix()
        for file in (tmp_path / "to").rglob("*")
        if file.is_file()
    }
    assert set(names) == found == {*travels, "config.json", "generation_config.json"}
    assert (tmp_path / "to" / travels[3]).read_text() == travels[3]
