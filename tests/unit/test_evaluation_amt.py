"""AMT-S without its weights: the shape of the published network, and cases whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from joyhallo.evaluation.amt import Amt, AmtInterpolation, load_amt, read_amt, renamed, scale_for
from joyhallo.evaluation.amt_blocks import Lookup, Update, warp
from joyhallo.evaluation.smoothness import smoothness


def blank() -> Amt:
    """A network that finds no motion and trusts both pictures alike."""
    network = Amt().eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


def picture(seed: int, size: tuple[int, int] = (128, 144)) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(40, 200, (1, 3, 9, 10))
    smooth = functional.interpolate(torch.from_numpy(coarse), size, mode="bicubic", align_corners=False)
    return smooth[0].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)


def published_names() -> dict[str, str]:
    """Our names by the published ones, written out from the description of its layers."""
    pairs: dict[str, str] = {}

    def same(theirs: str, ours: str, *names: str) -> None:
        pairs.update({f"{theirs}.{name}": f"{ours}.{name}" for name in names})

    block = [f"conv{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    for layer in (1, 2, 3):
        for place in (0, 1):
            same(f"feat_encoder.layer{layer}.{place}", f"features.layer{layer}.{place}", *block)
        if layer > 1:
            same(f"feat_encoder.layer{layer}.0.downsample.0", f"features.layer{layer}.0.downsample.0", "weight", "bias")
    both = ("0.weight", "0.bias", "1.weight")
    same("feat_encoder", "features", "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    for level in (1, 2, 3, 4):
        for place in (0, 1):
            same(f"encoder.pyramid{level}.{place}", f"pyramid.{level - 1}.{place}", *both)
        theirs, ours = f"decoder{level}.convblock", f"decoders.{4 - level}"
        same(f"{theirs}.0", f"{ours}.0", *both)
        same(f"{theirs}.1", f"{ours}.1", *(f"conv{i}.{name}" for i in (1, 2, 3, 4) for name in both))
        same(f"{theirs}.1", f"{ours}.1", "conv5.weight", "conv5.bias", "prelu.weight")
        same(f"{theirs}.2", f"{ours}.2", "weight", "bias")
        if level > 1:
            layers = ["convc1", "convf1", "convf2", "conv"]
            layers += [f"{part}.{i}" for part in ("gru", "feat_head", "flow_head") for i in (0, 2)]
            same(f"update{level}", f"updates.{4 - level}", *(f"{n}.{kind}" for n in layers for kind in ("weight", "bias")))
    same("comb_block", "combine", "0.weight", "0.bias", "1.weight", "2.weight", "2.bias")
    return pairs


def test_names_are_those_of_the_published_file(tmp_path):
    pairs = published_names()
    assert list(renamed(dict.fromkeys(pairs, torch.zeros(1)))) == list(pairs.values())
    torch.manual_seed(0)
    state = Amt().state_dict()
    assert set(pairs.values()) == set(state)
    torch.save({"state_dict": {theirs: state[ours] for theirs, ours in pairs.items()}}, tmp_path / "amt-s.pth")
    loaded = read_amt(tmp_path / "amt-s.pth").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_size_and_channels_are_those_of_the_description():
    shapes = {name: tuple(value.shape) for name, value in Amt().state_dict().items()}
    assert shapes["decoders.0.0.0.weight"] == (112, 113, 3, 3)
    assert shapes["decoders.0.2.weight"] == (112, 48, 4, 4)
    assert shapes["decoders.1.0.0.weight"] == (132, 136, 3, 3)
    assert shapes["decoders.2.2.weight"] == (96, 24, 4, 4)
    assert shapes["decoders.3.0.0.weight"] == (60, 64, 3, 3)
    assert shapes["updates.0.convc1.weight"] == (64, 392, 1, 1)
    assert shapes["updates.2.feat_head.2.weight"] == (20, 76, 3, 3)
    assert shapes["combine.0.weight"] == (18, 9, 3, 3)
    assert sum(value.numel() for value in Amt().state_dict().values()) == pytest.approx(3.0e6, rel=0.01)  # as published


def test_without_motion_the_middle_is_the_mean_cut_to_whole_levels():
    first, last = picture(0, (131, 150)), picture(1, (131, 150))
    middle = AmtInterpolation(blank())(first, last)
    mean = (first.astype(float) + last) / 2
    assert middle.shape == first.shape
    assert np.all((middle == np.floor(mean)) | (np.abs(mean - middle) < 1e-3) | (np.abs(mean - middle - 1) < 1e-3))
    assert np.mean(middle == np.floor(mean)) > 0.9
    still = [first] * 5
    assert smoothness(still, AmtInterpolation(blank())) > 0.995


def test_a_flow_moves_the_pictures():
    """The first picture is read 4 pixels to the right, the last one 2 pixels below; then the mean."""
    network = blank()
    bias = network.decoders[3][2].bias.data
    bias[0:6:2], bias[7:12:2] = 4.0, 2.0
    first, last = picture(0), picture(1)
    middle = AmtInterpolation(network)(first, last).astype(float)
    expected = (first[:-2, 4:].astype(float) + last[2:, :-4]) / 2
    assert np.abs(middle[:-2, :-4] - expected).max() <= 1.01
    bias[12:15] = 50.0  # trust the first alone
    middle = AmtInterpolation(network)(first, last).astype(float)
    assert np.abs(middle[:, :-4] - first[:, 4:]).max() <= 1.01


def test_flows_grow_with_the_size_on_their_way():
    """One pixel at an eighth of the size is eight pixels at the end."""
    network = blank()
    network.decoders[0][2].bias.data[0] = 1.0
    first, last = picture(0), picture(1)
    middle = AmtInterpolation(network)(first, last).astype(float)
    expected = (first[:, 8:].astype(float) + last[:, :-8]) / 2
    assert np.abs(middle[:, :-8] - expected).max() <= 1.01


def test_warp_reads_where_the_flow_leads():
    ramp = torch.arange(12.0).expand(1, 1, 8, 12)
    flow = torch.zeros(1, 2, 8, 12)
    flow[:, 0] = 1.5
    moved = warp(ramp, flow)[0, 0, 3]
    torch.testing.assert_close(moved[:10], torch.arange(10) + 1.5)
    assert float(moved[-1]) == 11, "the border goes on"


def test_lookup_against_plain_loops():
    torch.manual_seed(0)
    height, width = 16, 17
    first, last = torch.randn(2, 1, 6, height, width)
    flows = torch.randint(-2, 3, (1, 4, height, width)).float() / 2  # doubled they are whole pixels
    found = Lookup(first, last)(flows)
    assert found.shape == (1, 2 * 4 * 49, height, width)
    for y, x in ((5, 6), (0, 0), (15, 9)):
        for half, (one, other, flow) in enumerate(((first, last, flows[0, 2:]), (last, first, flows[0, :2]))):
            to_x, to_y = x + 2 * flow[0, y, x], y + 2 * flow[1, y, x]
            for i, j in ((0, 0), (3, 3), (6, 2)):  # x offset first
                at_x, at_y = int(to_x) + i - 3, int(to_y) + j - 3
                is_inside = 0 <= at_x < width and 0 <= at_y < height
                expected = float(one[0, :, y, x] @ other[0, :, at_y, at_x]) / 6**0.5 if is_inside else 0.0
                assert float(found[0, half * 196 + i * 7 + j, y, x]) == pytest.approx(expected, abs=1e-4)


def test_updates_come_in_the_size_of_the_state():
    torch.manual_seed(0)
    lookup = Lookup(*torch.randn(2, 1, 84, 16, 16))
    for factor, channels in ((1, 44), (2, 32), (4, 20)):
        side = 16 * factor
        update = Update(channels, factor)
        state, flows = update(torch.randn(1, channels, side, side), torch.randn(1, 4, side, side), lookup)
        assert state.shape == (1, channels, side, side)
        assert flows.shape == (1, 4, side, side)


def test_large_pictures_are_matched_smaller():
    assert scale_for(512, 512) == 1
    assert scale_for(512, 1024) == 1
    assert scale_for(1080, 1920) == pytest.approx(16 / 31)
    torch.manual_seed(0)
    network = Amt().eval()
    pair = torch.rand(2, 3, 31 * 4, 31 * 5)
    with torch.no_grad():
        middle = network(pair[:1], pair[1:], 16 / 31)
    assert middle.shape == (1, 3, 124, 155)
    assert torch.isfinite(middle).all()


def test_a_drawn_network_is_deterministic_and_finite():
    torch.manual_seed(0)
    interpolation = AmtInterpolation(Amt().eval())
    first = interpolation(picture(0), picture(1))
    assert np.array_equal(first, interpolation(picture(0), picture(1)))
    assert first.dtype == np.uint8


def test_nothing_is_loaded_where_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    assert load_amt() is None
