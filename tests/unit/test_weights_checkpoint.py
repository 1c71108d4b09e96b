"""Strict loading, old names, and files read and written a tensor at a time."""

import json
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from joyhallo.errors import UserError
from joyhallo.weights.checkpoint import (
    CheckpointError,
    TensorEntry,
    build_and_load,
    load_strict,
    open_tensors,
    save_tensors,
    today_name,
    write_tensors,
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.register_buffer("step", torch.tensor(7))


def tensors_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_module_from_meta_equals_the_saved_one(tmp_path):
    torch.manual_seed(0)
    saved = Small()
    save_tensors(tmp_path / "w.safetensors", saved.state_dict())
    loaded = build_and_load(Small, open_tensors(tmp_path / "w.safetensors"))
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    half = build_and_load(Small, saved.state_dict(), dtype=torch.bfloat16)
    assert half.first.weight.dtype == torch.bfloat16
    assert half.step.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("first.weight"), ["missing", "first.weight"]),
        (lambda t: t.update({"frist.weight": t.pop("first.weight")}), ["unknown", "frist.weight", "nearest", "first.weight"]),
        (lambda t: t.update({"first.weight": torch.zeros(4, 5)}), ["first.weight", "[4, 5]", "[4, 3]"]),
        (lambda t: t.update({"extra": torch.zeros(1)}), ["unknown", "extra"]),
    ],
)
def test_unfit_tensors_are_named_and_nothing_is_loaded(change, words):
    module = Small()
    before = tensors_of(module)
    tensors = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    change(tensors)
    with pytest.raises(CheckpointError) as error:
        load_strict(module, tensors)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_many_missing_tensors_make_a_short_line():
    with pytest.raises(CheckpointError, match="missing tensors") as error:
        load_strict(nn.Sequential(*(nn.Linear(1, 1) for _ in range(100))), {})
    assert len(str(error.value)) < 300


def test_old_names_are_understood():
    torch.manual_seed(0)
    module = weight_norm(nn.Conv1d(2, 3, 5))
    old = {
        "weight_g": module.parametrizations.weight.original0.clone(),
        "weight_v": module.parametrizations.weight.original1.clone(),
        "bias": module.bias.clone(),
    }
    target = nn.ModuleDict({"conv": weight_norm(nn.Conv1d(2, 3, 5))})
    load_strict(target, {f"conv.{name}": value for name, value in old.items()})
    assert torch.equal(target["conv"].weight, module.weight)
    assert today_name("decoder.mid_block.attentions.0.proj_attn.bias") == "decoder.mid_block.attentions.0.to_out.0.bias"
    assert today_name("encoder.mid_block.attentions.0.key.weight") == "encoder.mid_block.attentions.0.to_k.weight"
    assert today_name("encoder.layers.3.attention.k_proj.weight") == "encoder.layers.3.attention.k_proj.weight"


ALL_TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8]


def test_written_files_are_what_safetensors_reads(tmp_path):
    torch.manual_seed(0)
    tensors = {f"t{i}": (torch.randn(3, 5) * 9).to(dtype) for i, dtype in enumerate(ALL_TYPES)}
    tensors |= {"flag": torch.tensor([True, False, True]), "scalar": torch.tensor(3.5), "none": torch.zeros(0, 4)}
    tensors["strided"] = torch.arange(12.0).view(3, 4).T
    save_tensors(tmp_path / "a.safetensors", tensors, metadata={"made": "here"})
    theirs = load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(theirs[name], value), name
        assert theirs[name].dtype == value.dtype
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "b.safetensors")
    ours = open_tensors(tmp_path / "b.safetensors")
    assert all(torch.equal(ours[name], value) and ours.shape(name) == tuple(value.shape) for name, value in tensors.items())
    assert all(ours.dtype(name) == value.dtype for name, value in tensors.items())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)})

    def broken():
        raise CheckpointError("no")

    entries = [TensorEntry("x", (2,), torch.float32, lambda: torch.zeros(2)), TensorEntry("y", (2,), torch.float32, broken)]
    with pytest.raises(CheckpointError):
        write_tensors(path, entries)
    with pytest.raises(CheckpointError, match="announced"):
        write_tensors(path, [TensorEntry("x", (3,), torch.float32, lambda: torch.zeros(2))])
    assert torch.equal(load_file(path)["x"], torch.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("is_new_format", [True, False])
def test_pickles_of_tensors_alone_are_read(tmp_path, is_new_format):
    tensors = {"a": torch.randn(4, 4), "b": torch.randn(2).half()}
    torch.save({"state_dict": tensors}, tmp_path / "w.pth", _use_new_zipfile_serialization=is_new_format)
    opened = open_tensors(tmp_path / "w.pth")
    assert list(opened) == ["a", "b"]
    assert all(torch.equal(opened[name], value) for name, value in tensors.items())


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_pickles_that_hold_code_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1), "code": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="only tensors are read"):
            open_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", b""),
        ("a.safetensors", b"\xff" * 64),
        ("a.safetensors", (8).to_bytes(8, "little") + b"not json"),
        ("a.safetensors", (4).to_bytes(8, "little") + b"[12]"),
        ("a.pth", b""),
        ("a.pth", b"PK\x03\x04 no zip at all"),
        ("a.pth", b"text"),
        ("a.safetensors.index.json", b"{}"),
        ("a.safetensors.index.json", b"\x00"),
        ("a.safetensors.index.json", b'{"weight_map": {"x": "absent.safetensors"}}'),
    ],
)
def test_broken_files_are_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        open_tensors(tmp_path / name)
    assert "\n" not in str(error.value)


def test_truncated_files_are_refused(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(100)})
    torch.save({"x": torch.ones(100)}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) - 50])
        with pytest.raises(CheckpointError):
            open_tensors(tmp_path / name)
    with pytest.raises(UserError, match="not a file"):
        open_tensors(tmp_path)


def test_shards_are_one_file(tmp_path):
    tensors = {"a": torch.randn(2, 2), "b": torch.randn(3)}
    for name, value in tensors.items():
        save_tensors(tmp_path / f"{name}.safetensors", {name: value})
    index = {"weight_map": {name: f"{name}.safetensors" for name in tensors}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    opened = open_tensors(tmp_path / "model.safetensors.index.json")
    assert all(torch.equal(opened[name], value) for name, value in tensors.items())
    assert opened.shape("b") == (3,)


STREAM = """
    import resource, sys, torch
    from pathlib import Path
    from joyhallo.weights.checkpoint import TensorEntry, open_tensors, write_tensors
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    opened = open_tensors(source)
    entries = [TensorEntry(n, opened.shape(n), torch.float16, lambda n=n: opened[n].half()) for n in opened]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_tensors(out, entries)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts differently elsewhere")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_streaming_needs_a_bounded_part_of_the_file(tmp_path, suffix):
    """16 tensors of 24 MB: read as fp32 and written as fp16 with far less memory than the 384 MB of the file."""
    path = tmp_path / f"big.{suffix}"
    tensors = {f"layer.{i}": torch.full((6_000_000,), float(i)) for i in range(16)}
    torch.save(tensors, path) if suffix == "pth" else save_tensors(path, tensors)
    del tensors
    command = [sys.executable, "-c", textwrap.dedent(STREAM), str(path), str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 220e6, done.stdout
    written = open_tensors(tmp_path / "out.safetensors")
    assert [float(written[name][5_999_999]) for name in written] == list(range(16))
    path.unlink()
    (tmp_path / "out.safetensors").unlink()
