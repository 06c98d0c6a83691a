"""Projectors are kept target by target, survive a kill, and are believed only after a check."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from skippy.errors import ProjectorError
from skippy.stores.projector_files import projectors_digest
from skippy.stores.projectors import ProjectorStore, read_projectors

NAMES = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(5)]
IDENTITY = {"base_digest": "ab" * 32, "k": 3, "tolerance": 1e-5, "seed": 0}


def triples(name: str):
    generator = torch.Generator().manual_seed(NAMES.index(name))
    U, S, Vh = torch.linalg.svd(torch.randn(8, 6, generator=generator))
    return U[:, :3], S[:3], Vh[:3].mT


def fill(store: ProjectorStore, names) -> None:
    for name in names:
        if name not in store.finished():
            U, S, V = triples(name)
            store.append(name, U.double(), S.double(), V.double(), {"residual": 1e-7, "seconds": 0.1})


def finished(directory):
    store = ProjectorStore(directory, IDENTITY)
    fill(store, NAMES)
    store.finish(IDENTITY, NAMES)
    return directory


def test_round_trip_and_layout(tmp_path):
    store = ProjectorStore(tmp_path, IDENTITY)
    fill(store, NAMES)
    made = store.finish(IDENTITY, NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "projectors.safetensors"]
    stored = load_file(tmp_path / "projectors.safetensors")
    assert set(stored) == {f"{name}.{letter}" for name in NAMES for letter in "USV"}
    projectors = read_projectors(tmp_path, base_digest="ab" * 32, shapes=dict.fromkeys(NAMES, (8, 6)))
    assert projectors.digest == made.digest == projectors_digest(tmp_path)
    assert made.manifest == projectors.manifest
    assert list(made.bases) == list(projectors.bases) == NAMES
    assert all(torch.equal(made.bases[name].V, projectors.bases[name].V) for name in made.bases)
    for name in NAMES:
        U, S, V = triples(name)
        assert torch.equal(projectors.bases[name].U, U)
        assert torch.equal(projectors.bases[name].S, S)
        assert torch.equal(projectors.bases[name].V, V)
        assert projectors.bases[name].U.dtype == torch.float32
        assert projectors.manifest["targets"][name] == {"shape": [8, 6], "residual": 1e-7, "seconds": 0.1}
    assert projectors.manifest["k"] == 3


def test_resumed_is_bit_identical(tmp_path):
    finished(tmp_path / "whole")
    fill(ProjectorStore(tmp_path / "parts", IDENTITY), NAMES[3:])
    resumed = ProjectorStore(tmp_path / "parts", IDENTITY)
    assert resumed.finished() == set(NAMES[3:])
    fill(resumed, NAMES)
    resumed.finish(IDENTITY, NAMES)
    for file in ("projectors.safetensors", "manifest.json"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_killed_process_keeps_what_it_finished(tmp_path):
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); import test_projectors as t\n"
        "store = t.ProjectorStore(sys.argv[1], t.IDENTITY); t.fill(store, t.NAMES[:2])\n"
        "os.kill(os.getpid(), 9)"
    )
    here = os.path.dirname(__file__)
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "k"), here], check=False)
    assert ended.returncode == -9
    store = ProjectorStore(tmp_path / "k", IDENTITY)
    assert store.finished() == set(NAMES[:2])
    fill(store, NAMES)
    assert store.finish(IDENTITY).digest == projectors_digest(finished(tmp_path / "whole"))


@pytest.mark.parametrize("parts_left", [0, 2])
def test_what_was_assembled_before_a_kill_is_not_solved_again(tmp_path, parts_left):
    whole = finished(tmp_path)
    fill(ProjectorStore(tmp_path / "more", IDENTITY), NAMES[:parts_left])
    shutil.copytree(
        tmp_path / "more" / "parts", tmp_path / "parts", dirs_exist_ok=True
    ) if parts_left else None
    store = ProjectorStore(tmp_path, IDENTITY)
    assert store.finished() == set(NAMES)
    assert store.finish(IDENTITY, NAMES).digest == projectors_digest(whole)
    assert not (tmp_path / "parts").exists()


def test_unfinished_is_refused(tmp_path):
    store = ProjectorStore(tmp_path, IDENTITY)
    with pytest.raises(ProjectorError, match="at least one target"):
        store.finish(IDENTITY)
    fill(store, NAMES[:4])
    with pytest.raises(ProjectorError, match=NAMES[4]):
        store.finish(IDENTITY, NAMES)
    with pytest.raises(ProjectorError, match="unfinished parts"):
        read_projectors(tmp_path)
    with pytest.raises(ProjectorError, match="no finished projectors"):
        read_projectors(tmp_path / "nowhere")


@pytest.mark.parametrize("other", [{"base_digest": "cd" * 32}, {"k": 4}, {"tolerance": 1e-6}, {"seed": 1}])
def test_parts_of_other_work_are_never_mixed_in(tmp_path, other):
    fill(ProjectorStore(tmp_path, IDENTITY), NAMES[:1])
    with pytest.raises(ProjectorError, match="something else"):
        ProjectorStore(tmp_path, IDENTITY | other)


def test_a_target_stays_inside_the_directory(tmp_path):
    with pytest.raises(ProjectorError, match="unusable as a file name"):
        ProjectorStore(tmp_path, IDENTITY).append("../x", *triples(NAMES[0]), {})


def test_another_base_is_refused_with_both_digests(tmp_path):
    with pytest.raises(ProjectorError) as caught:
        read_projectors(finished(tmp_path), base_digest="cd" * 32)
    assert "ab" * 32 in str(caught.value)
    assert "cd" * 32 in str(caught.value)


def test_wrong_shape_or_missing_target(tmp_path):
    finished(tmp_path)
    with pytest.raises(ProjectorError, match=r"U \(9, k\)"):
        read_projectors(tmp_path, shapes={NAMES[0]: (9, 6)})
    with pytest.raises(ProjectorError, match="U, S and V of ghost"):
        read_projectors(tmp_path, shapes={"ghost": (8, 6)})


@pytest.mark.parametrize(
    ("letter", "spoil"),
    [
        ("U", lambda tensor: tensor * 1.001),
        ("V", lambda tensor: tensor[:, [0, 0, 1]]),
        ("U", lambda tensor: torch.full_like(tensor, torch.nan)),
        ("S", lambda tensor: tensor * torch.inf),
        ("S", lambda tensor: -tensor),
        ("S", lambda tensor: tensor[:2]),
    ],
    ids=["scaled", "repeated", "nan", "infinite", "negative", "short"],
)
def test_damage_is_noticed(tmp_path, letter, spoil):
    path = finished(tmp_path) / "projectors.safetensors"
    read_projectors(tmp_path)  # undamaged input passes
    tensors = load_file(path)
    key = f"{NAMES[1]}.{letter}"
    save_file(tensors | {key: spoil(tensors[key]).contiguous()}, path)
    with pytest.raises(ProjectorError, match=NAMES[1]):
        read_projectors(tmp_path)


def test_truncated_or_bad_manifest(tmp_path):
    finished(tmp_path)
    manifest = (tmp_path / "manifest.json").read_text()
    for bad in ("{", "[]", json.dumps({"targets": {NAMES[0]: {}}})):
        (tmp_path / "manifest.json").write_text(bad)
        with pytest.raises(ProjectorError, match="damaged"):
            read_projectors(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    path = tmp_path / "projectors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ProjectorError, match="damaged"):
        read_projectors(tmp_path)


def test_basis_that_is_not_orthonormal_is_not_assembled(tmp_path):
    store = ProjectorStore(tmp_path, IDENTITY)
    U, S, V = triples(NAMES[0])
    store.append(NAMES[0], U * 2, S, V, {})
    with pytest.raises(ProjectorError, match="orthonormal"):
        store.finish(IDENTITY)
    assert not (tmp_path / "projectors.safetensors").exists()


def test_one_sided_bases_are_kept_as_such_and_never_taken_for_others(tmp_path):
    """What protects inputs alone has a U without columns; read as anything else it is refused, and the reverse."""
    head = {**IDENTITY, "basis": "activations"}
    store = ProjectorStore(tmp_path / "act", head)
    _, S, V = triples(NAMES[0])
    store.append(NAMES[0], torch.zeros(8, 0), S, V, {"residual": 1e-7})
    made = store.finish(head)
    read = read_projectors(tmp_path / "act", basis="activations")
    assert read.bases[NAMES[0]].U.shape == (8, 0)
    assert torch.equal(read.bases[NAMES[0]].V, V)
    assert read.digest == made.digest
    with pytest.raises(ProjectorError, match=r"another basis[\s\S]*basis=top[\s\S]*basis=activations"):
        read_projectors(tmp_path / "act")
    two_sided = ProjectorStore(tmp_path / "both", head)
    two_sided.append(NAMES[0], *triples(NAMES[0]), {"residual": 1e-7})
    with pytest.raises(ProjectorError, match=r"U \(8, 0\)"):
        two_sided.finish(head)
    with pytest.raises(ProjectorError, match=r"basis=bottom[\s\S]*basis=top"):
        read_projectors(finished(tmp_path / "top"), basis="bottom")
