"""Past the page cache or through it: the same bytes, the same digests, and the same words where a disk fails."""

import errno
import hashlib
import io
import os
import random
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import CheckpointError
from skippy.stores import blocks, headers, merging
from skippy.stores.cards import hash_file, verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.headers import TensorInfo, require_finite
from skippy.stores.lanes import Sink, Span, read_ahead
from skippy.stores.tensors import header_bytes

BLOCK = 2 * blocks.PAGE


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two pages, so that a few kilobytes are many of them and a large file."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK)


@pytest.fixture
def direct(monkeypatch, tmp_path, small_blocks):
    """Whether each file that was to pass by the page cache did; nothing counts as lying in memory."""
    with (tmp_path / "probe").open("wb", buffering=0) as probe:
        blocks.set_direct(probe, True)
        if not blocks.is_direct(probe):
            pytest.skip("this file system does not know O_DIRECT")
    (tmp_path / "probe").unlink()
    seen, switch = [], blocks.set_direct

    def spy(stream, on):
        switch(stream, on)
        if on:
            seen.append(blocks.is_direct(stream))

    monkeypatch.setattr(blocks, "set_direct", spy)
    monkeypatch.setattr(blocks, "is_in_memory", lambda stream: False)
    return seen


class Fails(io.FileIO):
    """A file on a disk that does not take direct calls, or fails from a byte on."""

    def __init__(self, path, mode, code, limit=0):
        super().__init__(path, mode)
        self.code, self.limit = code, limit

    def _check(self, buffer):
        is_refused = blocks.is_direct(self) if self.code == errno.EINVAL else self.tell() >= self.limit
        if is_refused:
            raise OSError(self.code, os.strerror(self.code))
        return buffer if self.code == errno.EINVAL else memoryview(buffer)[: self.limit - self.tell()]

    def readinto(self, buffer):
        return super().readinto(self._check(buffer))

    def write(self, content):
        return super().write(self._check(content))


def numbered(path, size):
    content = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    path.write_bytes(content.tobytes())
    return content


def test_any_span_is_read_either_way(tmp_path, direct):
    content, rng = numbered(tmp_path / "x", 5 * BLOCK + 37), random.Random(0)
    with blocks.Reader(tmp_path / "x") as past, blocks.Reader(tmp_path / "x", keep=True) as through:
        assert blocks.is_direct(past._stream)
        assert not blocks.is_direct(through._stream)
        for _ in range(200):
            start, stop = sorted(rng.choices(range(len(content) + 1), k=2))
            wanted = content[start:stop]
            found = past.read(start, stop, "x", blocks.new_buffer(stop - start))
            assert np.array_equal(found, wanted)
            assert found.ctypes.data % 8 == 0, "where values of any type may lie"
            assert np.array_equal(through.read(start, stop, "x", np.empty(stop - start, np.uint8)), wanted)
        with pytest.raises(CheckpointError, match=r"damaged(.*\n)*.*38 bytes of x(.*\n)*.*earlier end"):
            past.read(len(content) - 37, len(content) + 1, "x", blocks.new_buffer(38))
        assert hash_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert direct == [True, True]


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("size", [0, 5, BLOCK, 3 * BLOCK, 4 * BLOCK + blocks.PAGE + 5])
def test_what_is_put_in_is_what_is_written_and_hashed(tmp_path, direct, size, is_direct):
    content, rng, part = numbered(tmp_path / "x", size), random.Random(size), hashlib.sha256()
    spans, read = [], hashlib.sha256()
    with (
        blocks.Reader(tmp_path / "x") as source,
        (tmp_path / "y").open("wb", buffering=0) as out,
        Sink(out) as sink,
    ):
        blocks.set_direct(out, is_direct)
        while not spans or spans[-1].stop < size:
            start = spans[-1].stop if spans else 0
            spans.append(Span(source, start, min(size, start + rng.randrange(1, 2 * BLOCK)), "x", read))
        for count, piece in enumerate(read_ahead(spans)):
            sink.put(piece, str(count), part if count % 2 else None)
        assert read.hexdigest() == hashlib.sha256(content).hexdigest()
        assert sink.finish() == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "y").read_bytes() == content.tobytes()
    odd = b"".join(content[span.start : span.stop].tobytes() for span in spans[1::2])
    assert part.hexdigest() == hashlib.sha256(odd).hexdigest()


def test_a_disk_that_takes_no_direct_call_is_read_and_written_all_the_same(tmp_path, direct):
    content = numbered(tmp_path / "x", 3 * BLOCK + 5)
    file = SimpleNamespace(open=lambda *_, **__: Fails(tmp_path / "x", "rb", errno.EINVAL))
    with blocks.Reader(file) as reader:
        assert np.array_equal(reader.read(1, len(content), "x", blocks.new_buffer(len(content))), content[1:])
    with Fails(tmp_path / "y", "wb", errno.EINVAL) as out, Sink(out) as sink:
        blocks.set_direct(out, True)
        sink.put(content, "x")
        assert sink.finish() == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "y").read_bytes() == content.tobytes()
    assert direct == [True, True]


def test_no_direct_way_at_all(tmp_path, monkeypatch, small_blocks):
    monkeypatch.setattr(blocks, "O_DIRECT", 0)
    content = numbered(tmp_path / "x", 3 * BLOCK + 5)
    assert hash_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EIO, "Input/output")])
def test_a_disk_that_fails_in_the_middle_is_named_with_the_tensor(tmp_path, direct, is_direct, code, words):
    """The second of three tensors does not fit; the disk takes its first page."""
    with Fails(tmp_path / "y", "wb", code, 2 * blocks.PAGE) as out, Sink(out) as sink:
        blocks.set_direct(out, is_direct)
        for name in ("first", "second", "third"):
            sink.put(np.zeros(blocks.PAGE + 512, np.uint8), name)
        with pytest.raises(CheckpointError, match=rf"cannot be written.*\n.*second into .*y(.*\n)*.*{words}"):
            sink.finish()
    numbered(tmp_path / "x", 4 * BLOCK)
    file = SimpleNamespace(open=lambda *_, **__: Fails(tmp_path / "x", "rb", code, BLOCK))
    with blocks.Reader(file, keep=not is_direct) as reader:
        assert len(reader.read(0, BLOCK, "x", blocks.new_buffer(BLOCK))) == BLOCK
        with pytest.raises(CheckpointError, match=rf"damaged(.*\n)*.*bytes of x(.*\n)*.*{words}"):
            reader.read(8, 2 * BLOCK, "x", blocks.new_buffer(2 * BLOCK))


def test_a_file_that_lies_in_memory_is_read_from_there(tmp_path, small_blocks):
    numbered(tmp_path / "x", 64 * BLOCK)
    with blocks.Reader(tmp_path / "x") as reader:
        assert not blocks.is_direct(reader._stream)
        os.fsync(os.open(tmp_path / "x", os.O_RDWR))
        os.posix_fadvise(reader._stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if blocks.is_in_memory(reader._stream):
            pytest.skip("this file system lies in memory")


def write_odd_base(folder):
    """Tensors of odd sizes, after a header of an odd length: nothing lies where a page or a value would begin."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.manual_seed(0)
    tensors = {
        "table": torch.randn(301, 7).bfloat16(),
        "flags": torch.randint(0, 5, (4095,)).to(torch.uint8),
        "a.weight": torch.randn(97, 131).bfloat16(),
        "none": torch.empty(0, 3),
        "b.weight": torch.randn(64, 515),
        "one": torch.tensor(1.5),
    }
    entries = [(key, value.dtype, tuple(value.shape)) for key, value in tensors.items()]
    header = header_bytes(entries)[8:] + b" "
    content = b"".join(value.reshape(-1).view(torch.uint8).numpy().tobytes() for value in tensors.values())
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content)
    return Checkpoint.open(folder)


@pytest.mark.parametrize("dtype", ["same", "float32"])
def test_a_merge_is_the_same_either_way(tmp_path, monkeypatch, direct, dtype):
    base = write_odd_base(tmp_path / "base")
    shapes = {"a": (97, 131), "b": (64, 515)}
    factors = {
        name: LoraFactors(torch.randn(2, in_), torch.randn(out, 2), 0.5)
        for name, (out, in_) in shapes.items()
    }
    adapter = write_adapter(tmp_path / "adapter", factors)
    past = merging.merge_checkpoint(base, adapter, tmp_path / "past", dtype=dtype)
    assert direct == [True, True, True], "the base, the merged file and its config"
    monkeypatch.setattr(blocks, "O_DIRECT", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 << 20)
    through = merging.merge_checkpoint(base, adapter, tmp_path / "through", dtype=dtype)
    files = {path.name: path.read_bytes() for path in (tmp_path / "past").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "through").iterdir()}
    assert past.base_digest == base.digest() == through.base_digest
    assert past.digest == Checkpoint.open(tmp_path / "through").digest() == through.digest
    verify_checkpoint(tmp_path / "past")
    merged = Checkpoint.open(tmp_path / "past")
    for name, each in factors.items():
        wanted = base.read(f"{name}.weight").float() + each.scale * (each.B @ each.A)
        torch.testing.assert_close(merged.read(f"{name}.weight").float(), wanted, rtol=8e-3, atol=1e-6)
    assert torch.equal(merged.read("flags"), base.read("flags"))


def test_a_full_disk_is_named_on_the_direct_way_too(tmp_path, direct):
    base = write_odd_base(tmp_path / "base")
    adapter = write_adapter(
        tmp_path / "adapter", {"b": LoraFactors(torch.ones(1, 515), torch.ones(64, 1), 1.0)}
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written.*\n.*b\.weight into .*safetensors"):
            merging.merge_checkpoint(base, adapter, tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


@pytest.mark.parametrize("kind", headers.EXPONENT_BITS)
def test_what_is_not_finite_is_seen_among_what_is(tmp_path, kind):
    """Every pattern of 16 bits; of wider types, those at the borders."""
    integers, exponent = headers.EXPONENT_BITS[kind]
    bits = 8 * np.dtype(integers).itemsize
    if bits == 16:
        patterns = np.arange(1 << 16, dtype=np.uint16)
    else:
        near = [0, 1, exponent - 1, exponent, exponent + 1, (1 << bits - 1) - 1]
        patterns = np.array([sign << bits - 1 | value for value in near for sign in (0, 1)], f"u{bits // 8}")
    dtype = getattr(torch, headers.TYPES[kind].name)
    finite = torch.from_numpy(patterns.view(integers)).view(dtype).isfinite().numpy()
    info = TensorInfo("w", tmp_path, kind, patterns.shape, 0, patterns.nbytes)
    good = patterns[finite]
    require_finite(good.view(np.uint8), info)
    for pattern in patterns[~finite][::7]:
        with pytest.raises(CheckpointError, match="not finite"):
            require_finite(np.append(good[::97], pattern).view(np.uint8), info)
