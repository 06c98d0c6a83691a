"""A safetensors header is believed only where it describes every byte of its file once."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from skippy.errors import CheckpointError
from skippy.stores.headers import TYPES, read_header
from skippy.stores.tensors import read_tensor

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def put(path, header, data: int = 32):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(data))
    return path


def changed(key: str, **fields) -> dict:
    return GOOD | {key: GOOD[key] | fields}


def test_a_good_header_is_read(tmp_path):
    infos = read_header(put(tmp_path / "x", GOOD | {"__metadata__": {"format": "pt"}}))
    assert {key: (info.type, list(info.shape)) for key, info in infos.items()} == {
        key: (entry["dtype"], entry["shape"]) for key, entry in GOOD.items()
    }


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (changed("b", data_offsets=[16, 24]), "b in"),
        (changed("b", data_offsets=[20, 28]), "b in"),
        (changed("b", data_offsets=[0, 8]), "a in"),
        (changed("b", data_offsets=[24.0, 32.0]), r"24\.0"),
        (changed("b", data_offsets=[24.5, 32.5]), r"24\.5"),
        (changed("b", data_offsets=[-8, 0]), "-8"),
        (changed("a", data_offsets=[-24, 0]), "-24"),
        (changed("b", data_offsets=["24", "32"]), "'24'"),
        (changed("b", data_offsets=[24]), r"\[24\]"),
        (changed("b", data_offsets=[True, 9]), "True"),
        (changed("b", shape=[2.0, 2.0]), r"2\.0"),
        (changed("b", shape=[-2, -2]), "-2"),
        (changed("b", shape="4"), "'4'"),
        (changed("b", shape=[2**62, 0, 2**62], data_offsets=[24, 24]), "4611686018427387904"),
        (changed("b", shape=[2**70]), "1180591620717411303424"),
        (changed("b", dtype=7), "7"),
        (GOOD | {"b": [24, 32]}, "24, 32"),
        (GOOD | {"b": None}, "None"),
        ({"b": GOOD["b"]}, "b in"),
        ({"a": GOOD["a"]}, "8 belong to no tensor"),
        (GOOD | {"__metadata__": {"format": 3}}, "format"),
        (GOOD | {"__metadata__": ["pt"]}, "pt"),
        (b'{"a": {}, "a": {}}', "key 'a' twice"),
        (
            json.dumps(GOOD).encode()[:-1]
            + b', "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}',
            "'b' twice",
        ),
        (b'{"a": ' * 100_000, "too deeply"),
        (b"[" * 100_000, "{"),
        (b' {"a": 1}', "{"),
        (json.dumps(GOOD).encode("utf-16"), "{"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"\xff": 1}', "utf-8"),
        (b'{"a": NaN}', "NaN"),
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused_with_file_and_tensor(tmp_path, header, found):
    path = put(tmp_path / "x.safetensors", header)
    with pytest.raises(CheckpointError, match=found) as refusal:
        read_header(path)
    assert "x.safetensors" in refusal.value.where


NUMBERS = st.integers(-40, 40) | st.floats(-40, 40) | st.sampled_from([2**63, 10**30, -(2**63)]) | st.none()
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*TYPES, "F4", "f32", ""]) | NUMBERS,
        "shape": st.lists(st.integers(0, 4) | NUMBERS, max_size=3) | NUMBERS,
        "data_offsets": st.lists(st.integers(0, 40) | NUMBERS, max_size=3) | NUMBERS,
    },
)
HEADERS = st.dictionaries(st.text(max_size=4), ENTRIES | NUMBERS | st.text(max_size=4), max_size=3)


@st.composite
def tilings(draw) -> tuple[dict, int]:
    """Headers that are right, for the fuzzer to start from."""
    header, position = {}, 0
    for key in draw(st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=3)):
        dtype, shape = draw(st.sampled_from(sorted(TYPES))), draw(st.lists(st.integers(0, 3), max_size=3))
        size = TYPES[dtype].itemsize
        for side in shape:
            size *= side
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return header, position


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADERS | st.binary(max_size=40), data=st.integers(0, 64))
def test_any_header_is_read_or_refused_in_one_way(tmp_path, header, data):
    """Never another exception, and never more than the reference reader takes."""
    path = put(tmp_path / "x", header, data)
    try:
        infos = read_header(path)
    except CheckpointError as refusal:
        assert refusal.where  # noqa: PT017 - either outcome is right
        return
    for info in infos.values():
        assert read_tensor(info).shape == info.shape
    with safe_open(path, "pt") as reference:
        assert set(reference.keys()) == set(infos)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tiling=tilings(), extra=st.integers(-3, 3))
def test_right_headers_are_read_and_bytes_too_many_or_too_few_are_not(tmp_path, tiling, extra):
    header, size = tiling
    path = put(tmp_path / "x", header, max(size + extra, 0))
    if size == max(size + extra, 0):
        assert set(read_header(path)) == set(header) - {"__metadata__"}
        return
    with pytest.raises(CheckpointError):
        read_header(path)
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass
