"""A reader of lips, and what training makes of it: lips that are out of place count."""

import json
import shutil
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from joyhallo.conditioning.anatomy import LIP_POINTS
from joyhallo.errors import UserError
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.latents import LatentSpace, decode_latents
from joyhallo.models.lip_reader import LipReader
from joyhallo.training import budget
from joyhallo.training.lip_reader import DecodedMouths, misread, train_lip_reader
from joyhallo.training.mouth import Mouths, window
from joyhallo.training.recipes import smoke_stage1
from joyhallo.training.start import load_encoders, load_start
from joyhallo.training.visible import visible_difference
from joyhallo.weights.hub import bundled_folder
from joyhallo.weights.pipeline_folder import load_component
from tiny import draw_weights, normal

CPU = torch.device("cpu")
NUM_STEPS = 140


def drawn_mouths(num: int) -> SimpleNamespace:
    """Grey windows of 32 px with a dark mouth of different heights and places; its points lie on a ring around it."""
    random = np.random.default_rng(0)
    places = np.stack([random.uniform(-5, 5, num), random.uniform(-5, 5, num), random.uniform(1, 5, num)], 1)
    grid = np.arange(32) - 15.5
    x, y = (grid[None, None] - places[:, 0, None, None]), (grid[None, :, None] - places[:, 1, None, None])
    dark = np.clip(1.5 - np.hypot(x / 8, y / places[:, 2, None, None]), 0, 1)
    pictures = torch.from_numpy((200 - 150 * dark).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    angles = np.linspace(0, 2 * np.pi, len(LIP_POINTS), endpoint=False)
    ring = np.stack([8 * np.cos(angles), np.sin(angles)], -1)[None] * np.stack([np.ones(num), places[:, 2]], -1)[:, None]
    points = torch.from_numpy((ring + places[:, None, :2]).reshape(num, -1).astype(np.float32))
    held = torch.arange(num) % 4 == 0
    return SimpleNamespace(pictures=pictures.contiguous(), places=points, units=points.std(0) + 1, is_held_out=held)


def test_it_learns_to_read_mouths_that_it_was_not_shown(monkeypatch):
    clock = count(0, 60 / (3 * NUM_STEPS))  # a minute is so many steps on any machine: each looks at the clock three times
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    mouths = drawn_mouths(240)
    reader = train_lip_reader(mouths, minutes=1.0)
    usual = mouths.places / mouths.units
    assert misread(reader, mouths) < 0.5 * float((usual - usual.mean(0)).abs().mean())
    assert torch.equal(reader.units, mouths.units)


def test_mouths_are_decoded_around_the_lips_with_their_places():
    vae = PatchAutoencoder(4, (8, 8), (1, 1), (1, 1)).requires_grad_(False)  # 4 px a cell
    draw_weights(vae, 3)
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[0, 32:48, 24:40] = 255  # of 8x8 cells: rows 4 and 5, columns 3 and 4
    points = np.zeros((6, 478, 3), np.float32)
    points[..., 0], points[..., 1] = 15.0, 19.0 + np.arange(6)[:, None]
    facts = [SimpleNamespace(is_held_out=held) for held in (False, True, False)]
    annotations = [SimpleNamespace(points=p, masks=masks) for p in (points, points, np.full_like(points, np.nan))]
    dataset = SimpleNamespace(index=SimpleNamespace(size_px=32), facts=facts, annotations=annotations.__getitem__)
    latents = normal(1, 6, 4, 8, 8)
    cache = SimpleNamespace(frames=lambda _, numbers: latents[numbers])
    mouths = DecodedMouths(dataset, cache, vae)
    assert mouths.is_held_out.tolist() == [False] * 6 + [True] * 6  # no points, no clip
    lip = torch.zeros(1, 1, 8, 8)
    lip[..., 4:6, 3:5] = 1
    wanted = decode_latents(vae, window(latents.transpose(0, 1)[None], lip)[0].transpose(0, 1))
    assert (mouths.pictures[:6].float() / 127.5 - 1 - wanted).abs().max() <= 0.5 / 127.5 + 1e-6
    middle = (14, 22)  # of the window's three cells, columns 2 to 4 and rows 4 to 6
    assert mouths.places[0, :2].tolist() == [15 - middle[0], 19 - middle[1]]
    assert mouths.units[:2].tolist() == pytest.approx([1.0, 1.0 + np.arange(6).std()], rel=1e-5)


def test_misplaced_lips_count_beside_what_is_seen():
    vae = PatchAutoencoder(4, (8, 8), (1, 1), (1, 1)).requires_grad_(False)
    draw_weights(vae, 7)

    def reader(pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean(dim=(2, 3))

    sampled, wanted, portrait = normal(1, 1, 4, 2, 8, 8), normal(2, 1, 4, 2, 8, 8), normal(3, 1, 4, 8, 8)
    lip, space = torch.zeros(1, 1, 8, 8), LatentSpace("residual", 2.0)
    sampled.requires_grad_()
    found = Mouths(vae, space, reader, 0.4).difference(sampled, wanted, portrait, lip)
    seen = Mouths(vae, space).difference(sampled, wanted, portrait, lip)
    mine, theirs = (
        vae.decode(window(space.from_sampled(one[:, :, :1], portrait[:, :, None]), lip)[:, :, 0]) for one in (sampled, wanted)
    )
    assert seen.item() == pytest.approx(visible_difference(mine, theirs).item(), rel=1e-4)
    read = (reader(mine) - reader(theirs)).abs().mean()
    assert (found - seen).item() == pytest.approx(0.4 * read.item(), rel=1e-3)
    (found - seen).sum().backward()
    assert sampled.grad.abs().sum() > 0


def test_a_recipe_that_reads_lips_takes_the_reader_of_the_encoders_or_of_its_start(tmp_path):
    recipe = smoke_stage1()
    recipe = replace(recipe, objective=replace(recipe.objective, reading_weight=0.4))
    bare = shutil.copytree(bundled_folder("mini"), tmp_path / "bare", ignore=shutil.ignore_patterns("lip_reader"))
    index = json.loads((bare / "model_index.json").read_text())
    del index["lip_reader"]
    (bare / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lip_reader"):
        load_start(recipe, str(bare), CPU)
    encoders = tmp_path / "encoders"
    LipReader(len(LIP_POINTS)).save_pretrained(encoders / "lip_reader")
    assert list(load_encoders(encoders)) == ["lip_reader"]
    given = load_start(recipe, str(bare), CPU, encoders).pipe.lip_reader
    own = load_start(recipe, "mini", CPU).pipe.lip_reader
    assert not any(parameter.requires_grad for reader in (given, own) for parameter in reader.parameters())
    assert given.units.unique().tolist() == [1.0]
    assert own.units.min() > 1
    assert load_component(encoders / "lip_reader", "LipReader", torch.float32)(torch.zeros(2, 3, 96, 96)).shape == (2, 80)
