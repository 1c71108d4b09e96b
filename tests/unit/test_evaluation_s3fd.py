"""The face detector of the published lip-sync pipeline, with weights made by hand."""

import numpy as np
import pytest
import torch

from joyhallo.evaluation.s3fd import FaceDetector, S3fd, load_s3fd, renamed, scale_for, suppress


def blank(width: int = 32) -> S3fd:
    """A network that sees no face anywhere."""
    network = S3fd(width=width).eval()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for head in network.scores:
        head.bias.data[0] = 9
    return network


def test_names_are_those_of_the_published_file():
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in S3fd().state_dict().items()}
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
    names = [f"vgg.{i}" for i in convolutions] + [f"extras.{i}" for i in range(4)]
    names += [f"{head}.{i}" for head in ("loc", "conf") for i in range(6)]
    published = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    published += ["L2Norm3_3.weight", "L2Norm4_3.weight", "L2Norm5_3.weight"]
    assert set(renamed(dict.fromkeys(published, torch.zeros(1)))) == set(ours)
    num_bytes = 4 * sum(int(np.prod(shape)) for shape in ours.values())
    assert 0 < 89_844_381 - num_bytes < 20_000, "the published file is its numbers and some names"
    assert ours["trunk.31.weight"] == (1024, 512, 3, 3)
    assert ours["scores.0.weight"] == (4, 256, 3, 3)
    assert ours["norms.2.weight"] == (512,)


def test_a_blank_network_finds_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    assert FaceDetector(blank(), 0.5)(picture).shape == (0, 5)


@pytest.mark.parametrize(("head", "step", "side"), [(0, 4, 16), (3, 32, 128), (4, 64, 256)])
def test_boxes_are_the_anchors_of_their_head(head, step, side):
    network = blank()
    network.scores[head].bias.data[-1] = 18
    rows = network(torch.zeros(1, 3, 128, 192)).detach().numpy()
    faces = rows[rows[:, 4] > 0.9]
    assert len(faces) == (128 // step) * (192 // step)
    columns = 192 // step
    x, y = step * 1.5, step * 0.5  # the second of the first row
    expected = [(x - side / 2) / 192, (y - side / 2) / 128, (x + side / 2) / 192, (y + side / 2) / 128]
    np.testing.assert_allclose(faces[1, :4], expected, atol=1e-6)
    np.testing.assert_allclose(faces[columns, 1] - faces[0, 1], step / 128, atol=1e-6)


def test_places_move_and_grow_the_anchors():
    network = blank()
    network.scores[3].bias.data[1] = 18
    network.places[3].bias.data = torch.tensor([1.0, -2.0, 3.0, -1.0])
    face = network(torch.zeros(1, 3, 96, 96)).detach().numpy()
    face = face[face[:, 4] > 0.9][0] * 96
    middle = np.array([16 + 0.1 * 128, 16 - 0.2 * 128])
    half = np.array([128 * np.exp(0.6), 128 * np.exp(-0.2)]) / 2
    np.testing.assert_allclose(face[:4], [*(middle - half), *(middle + half)], rtol=1e-5)


def test_boxes_are_in_pixels_of_the_whole_picture():
    network = blank()
    network.scores[4].bias.data[1] = 18
    network.places[4].bias.data[2:] = -6  # small enough not to overlap
    picture = np.zeros((300, 520, 3), np.uint8)
    found = FaceDetector(network, 0.25)(picture)  # 75 by 130 pixels: one row of three cells of 64
    side = 256 * np.exp(-1.2)
    widths = np.sort(found[:, 2] - found[:, 0])
    np.testing.assert_allclose(widths, side * 4, rtol=1e-5)
    assert np.all(found[:, 4] > 0.9)


def test_of_the_smallest_faces_the_likeliest_background_counts():
    network = blank()
    network.scores[0].bias.data = torch.tensor([0.0, 0.0, 20.0, 18.0])
    rows = network(torch.zeros(1, 3, 64, 64)).detach().numpy()
    assert rows[0, 4] == pytest.approx(1 / (1 + np.exp(2.0)), rel=1e-5)


def test_suppression_keeps_the_surest():
    rows = np.array([[0, 0, 10, 10, 0.99], [1, 0, 11, 10, 0.98], [8, 0, 18, 10, 0.97], [30, 30, 40, 40, 0.95]], float)
    np.testing.assert_array_equal(suppress(rows, 0.3), rows[[0, 2, 3]])
    np.testing.assert_array_equal(suppress(rows, 0.1), rows[[0, 3]])
    assert suppress(rows[:0], 0.3).shape == (0, 5)


def test_the_trunk_is_seen_where_the_published_heads_see_it():
    """A drawn network against the published order of its layers, run by hand."""
    torch.manual_seed(0)
    network = S3fd(width=32).eval()
    pixels = torch.randn(1, 3, 70, 90)
    x, seen = pixels, []
    with torch.no_grad():
        for index, layer in enumerate(network.trunk):
            x = layer(x)
            if index in (15, 22, 29):
                norm = network.norms[len(seen)].weight[None, :, None, None]
                seen.append(x / x.norm(dim=1, keepdim=True) * norm)
        seen.append(x)
        for index, layer in enumerate(network.extras):
            x = layer(x).relu()
            if index % 2:
                seen.append(x)
        expected = [network.scores[i](s)[0] for i, s in enumerate(seen)]
        probabilities = [torch.cat([e[:-1].max(0, keepdim=True).values, e[-1:]]).softmax(0)[1].flatten() for e in expected]
        rows = network(pixels)
    torch.testing.assert_close(rows[:, 4], torch.cat(probabilities))


def test_a_published_file_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("joyhallo.evaluation.s3fd.S3fd", lambda: S3fd(width=32))
    parts = {"trunk": "vgg", "norms.0": "L2Norm3_3", "norms.1": "L2Norm4_3", "norms.2": "L2Norm5_3"}
    parts |= {"places": "loc", "scores": "conf", "extras": "extras"}
    torch.manual_seed(0)
    drawn = S3fd(width=32).state_dict()
    published = {
        next(theirs + name.removeprefix(ours) for ours, theirs in parts.items() if name.startswith(ours + ".")): value
        for name, value in drawn.items()
    }
    torch.save(published, tmp_path / "sfd_face.pth")
    loaded = load_s3fd(tmp_path / "sfd_face.pth").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in drawn.items())


def test_small_pictures_are_searched_at_half_their_size():
    assert scale_for((512, 512)) == 0.5
    assert scale_for((720, 1280)) == 0.25
