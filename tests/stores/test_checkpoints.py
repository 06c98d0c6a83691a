"""A checkpoint is what its headers say, is read tensor by tensor, and has one digest however it is split."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from skippy.errors import CheckpointError
from skippy.stores import blocks
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.headers import hash_tensor, read_header
from skippy.stores.tensors import header_bytes, read_tensor


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(6, 4, generator=generator).to(torch.bfloat16),
        "b.weight": torch.randn(3, 5, generator=generator).to(torch.float16),
        "c.bias": torch.randn(7, generator=generator),
        "d.scalar": torch.tensor(3),
        "e.empty": torch.empty(0, 4),
    }


def write(directory, shards, config=None):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or {"model_type": "qwen3"}))
    if len(shards) == 1:
        save_file(shards[0], directory / "model.safetensors")
        return directory
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / name)
        weight_map |= dict.fromkeys(shard, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def split(each: dict, count: int) -> list[dict]:
    items = list(each.items())
    return [dict(items[start::count]) for start in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_reads_what_was_saved(tmp_path, count):
    saved = tensors()
    checkpoint = Checkpoint.open(write(tmp_path / "m", split(saved, count)))
    assert checkpoint.shapes == {key: tuple(tensor.shape) for key, tensor in saved.items()}
    for key, tensor in saved.items():
        read = checkpoint.read(key)
        assert read.dtype == tensor.dtype == checkpoint.tensors[key].dtype
        assert torch.equal(read, tensor)


def test_digest_is_of_content_alone(tmp_path):
    saved = tensors()
    digests = {Checkpoint.open(write(tmp_path / str(n), split(saved, n))).digest() for n in (1, 2, 3)}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved.update({"c.bias": saved["c.bias"] + torch.tensor([0] * 6 + [1e-7])}),
        lambda saved: saved.update({"a.weight": saved["a.weight"].reshape(4, 6)}),
        lambda saved: saved.update({"c.bias": saved["c.bias"].view(torch.int32)}),
        lambda saved: saved.update({"z.bias": saved.pop("c.bias")}),
        lambda saved: saved.update({"c.bia": saved.pop("c.bias")}),
    ],
    ids=["one bit", "shape", "dtype", "name", "name in the same place"],
)
def test_digest_sees_every_change(tmp_path, change):
    saved = tensors()
    before = Checkpoint.open(write(tmp_path / "before", [saved])).digest()
    change(saved)
    assert Checkpoint.open(write(tmp_path / "after", [saved])).digest() != before


def test_read_touches_one_tensor_only(tmp_path):
    """Bytes of every other tensor are overwritten; the one read is unharmed."""
    checkpoint = Checkpoint.open(write(tmp_path / "m", [tensors()]))
    wanted = checkpoint.tensors["b.weight"]
    raw = bytearray(wanted.file.read_bytes())
    for info in checkpoint.tensors.values():
        if info is not wanted:
            raw[info.start : info.stop] = b"\xff" * info.nbytes
    wanted.file.write_bytes(raw)
    assert torch.equal(checkpoint.read("b.weight"), tensors()["b.weight"])
    assert not torch.equal(checkpoint.read("c.bias"), tensors()["c.bias"])


def test_bytes_are_the_same_however_many_a_read_returns(tmp_path, monkeypatch):
    """Reads end early on some disks, and after 2 GiB on all; a hash goes over more than one chunk."""
    info = Checkpoint.open(write(tmp_path / "m", [tensors()])).tensors["a.weight"]

    class Drops(io.FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:5])

    slow = replace(info, file=SimpleNamespace(open=lambda *_, **__: Drops(info.file)))
    assert torch.equal(read_tensor(slow), tensors()["a.weight"])
    whole = hash_tensor(info)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8)
    assert hash_tensor(info) == hash_tensor(slow) == whole


def test_written_header_is_read_by_safetensors(tmp_path):
    saved = {key: tensor for key, tensor in tensors().items() if tensor.dtype != torch.bfloat16}
    path = tmp_path / "x.safetensors"
    entries = [(key, tensor.dtype, tuple(tensor.shape)) for key, tensor in saved.items()]
    for length in range(8):
        assert len(header_bytes(entries, {"a": "b" * length})) % 8 == 0, "data aligned as the format wants it"
    path.write_bytes(
        header_bytes(entries, {"a": "b"}) + b"".join(t.numpy().tobytes() for t in saved.values())
    )
    assert all(torch.equal(tensor, saved[key]) for key, tensor in load_file(path).items())
    assert set(read_header(path)) == set(saved)


def _no_config(d):
    (d / "config.json").unlink()


def _bad_config(d):
    (d / "config.json").write_text("{")


def _no_weights(d):
    for file in d.glob("*.safetensors*"):
        file.unlink()


def _no_shard(d):
    (d / "model-00002-of-00002.safetensors").unlink()


def _key_absent(d):
    index = json.loads((d / "model.safetensors.index.json").read_text())
    index["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    (d / "model.safetensors.index.json").write_text(json.dumps(index))


def _truncated(d):
    file = d / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def _no_header(d):
    (d / "model-00002-of-00002.safetensors").write_bytes(b"not a header at all")


def _bad_header(d):
    (d / "model-00002-of-00002.safetensors").write_bytes((8).to_bytes(8, "little") + b"[1,2,3] ")


def _twice(d):
    (d / "model-00002-of-00002.safetensors").write_bytes(
        (d / "model-00001-of-00002.safetensors").read_bytes()
    )


def _bad_index(d):
    (d / "model.safetensors.index.json").write_text("{}")


def _wrong_shard(d):
    index = json.loads((d / "model.safetensors.index.json").read_text())
    index["weight_map"]["a.weight"] = "model-00002-of-00002.safetensors"
    (d / "model.safetensors.index.json").write_text(json.dumps(index))


def _header(entry):
    def damage(d):
        raw = json.dumps({"x": entry}).encode()
        (d / "model-00002-of-00002.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_config, "config.json is missing"),
        (_bad_config, "config.json cannot be read"),
        (_no_weights, "no safetensors weights"),
        (_no_shard, "without model-00002-of-00002.safetensors"),
        (_key_absent, "ghost.weight"),
        (_truncated, "the file is truncated"),
        (_no_header, "do not start with one"),
        (_bad_header, "header of JSON"),
        (_twice, "stored twice"),
        (_bad_index, "weight_map"),
        (_wrong_shard, "found: in model-00001"),
        (_header({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), "8 bytes of data"),
        (_header({"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}), "type that is not supported"),
    ],
)
def test_damage_is_named_on_opening(tmp_path, damage, words):
    directory = write(tmp_path / "m", split(tensors(), 2))
    Checkpoint.open(directory)  # undamaged input passes
    damage(directory)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(directory)
    assert str(tmp_path) in str(caught.value)


def test_path_errors(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a directory"):
        Checkpoint.open(tmp_path / "file")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge the adapter"):
        Checkpoint.open(tmp_path / "adapter")


def test_unknown_key(tmp_path):
    with pytest.raises(CheckpointError, match="no such tensor"):
        Checkpoint.open(write(tmp_path / "m", [tensors()])).read("ghost")


def test_companions(tmp_path):
    directory = write(tmp_path / "m", [tensors()])
    (directory / "tokenizer.json").write_text("{}")
    (directory / "notes.txt").write_text("")
    (tmp_path / "dst").mkdir()
    assert Checkpoint.open(directory).copy_companions(tmp_path / "dst") == ("config.json", "tokenizer.json")
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == ["config.json", "tokenizer.json"]
