"""Recipes: the published numbers, numbers changed by name, and recipes as text."""

import json
from dataclasses import replace

import pytest

from joyhallo.errors import UserError
from joyhallo.models.networks import build_networks
from joyhallo.training.overrides import first_difference, paths, read_recipe, recipe_text, with_changes
from joyhallo.training.recipes import RECIPES, find_recipe, preset_of
from joyhallo.training.trainee import freeze
from tiny import drawn_networks, tiny_preset

ALL = [(name, stage) for name, stages in RECIPES.items() for stage in stages]


def test_the_published_numbers():
    """By the scripts of the published code; 8 processes with 8 and with 4 samples each."""
    first, second = find_recipe("published", "stage1"), find_recipe("published", "stage2")
    for recipe in (first, second):
        known = recipe.schedule
        assert (known.num_steps, known.betas, known.weight_decay, known.max_grad_norm) == (30_000, (0.9, 0.999), 1e-2, 1.0)
        assert {known.rate(step) for step in (0, 1, 29_999)} == {1e-5}
        assert known.ema_decay == 0
        assert (recipe.objective.noise_offset, recipe.objective.snr_gamma, recipe.objective.coins) == (0.05, 5.0, "per_batch")
        assert recipe.drawing.samples_latents
    assert (first.drawing.num_samples, first.drawing.num_at_once, first.drawing.num_frames) == (64, 8, 1)
    assert (first.objective.portrait_dropout, first.objective.drops_face, first.drawing.reference_gap_frames) == (0.1, True, 30)
    assert not first.drawing.hears
    assert (second.drawing.num_samples, second.drawing.num_at_once) == (32, 4)
    assert (second.drawing.num_frames, second.drawing.num_past, second.drawing.margin_frames) == (16, 2, 2)
    dropouts = second.objective.portrait_dropout, second.objective.audio_dropout, second.objective.start_dropout
    assert dropouts == (0.05, 0.05, 0.05)
    assert (second.objective.reduction, second.drawing.start) == ("published", "grey")
    assert (second.schedule.optimizer, second.schedule.checkpointing) == ("adamw8bit", True)


@pytest.mark.parametrize(("name", "stage"), ALL)
def test_every_recipe_survives_being_written(name, stage):
    recipe = find_recipe(name, stage)
    assert (recipe.name, recipe.stage) == (name, stage)
    assert read_recipe(json.loads(recipe_text(recipe)), "recipe.json") == recipe
    preset_of(recipe.preset)


def test_what_trains_in_the_published_stages():
    networks = drawn_networks(tiny_preset())

    def trained(stage: str) -> set[str]:
        freeze(networks, find_recipe("published", stage))
        modules = networks.modules().items()
        return {f"{name}.{path}" for name, module in modules for path, p in module.named_parameters() if p.requires_grad}

    first, second = trained("stage1"), trained("stage2")
    assert not first & second
    every = {f"{name}.{path}" for name, module in networks.modules().items() for path, _ in module.named_parameters()}
    assert first | second == every
    assert all(".audio." in name or ".motion." in name or name.startswith("audio_projector.") for name in second)


def test_the_smoke_networks_can_be_built():
    num_parameters = sum(p.numel() for m in build_networks(preset_of("smoke")).modules().values() for p in m.parameters())
    assert num_parameters < 1e6


def test_numbers_are_changed_by_name_and_typed():
    recipe = with_changes(
        find_recipe("mini", "stage2"),
        [
            "objective.noise_offset=0.1",
            "schedule.num_steps=7",
            "schedule.checkpointing=true",
            "objective.reduction=published",
            "drawing.synthetic_share=none",
            "schedule.betas=0.8,0.9",
            "frozen=a.,b.",
            "seed=3",
        ],
    )
    assert (recipe.objective.noise_offset, recipe.schedule.num_steps, recipe.schedule.checkpointing) == (0.1, 7, True)
    assert (recipe.objective.reduction, recipe.drawing.synthetic_share) == ("published", None)
    assert (recipe.schedule.betas, recipe.frozen, recipe.seed) == ((0.8, 0.9), ("a.", "b."), 3)


def test_every_number_can_be_changed_to_what_it_is():
    recipe = find_recipe("published", "stage2")
    for path, value in paths(recipe).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert with_changes(recipe, [f"{path}={text}"]) == recipe or value == ("",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("objective.noise_ofset=0.1", "nearest is 'objective.noise_offset'"),
        ("noise_offset=0.1", "nearest is 'objective.noise_offset'"),
        ("objective=0.1", "no number 'objective'"),
        ("objective.noise_offset.x=1", "no number"),
        ("objective.noise_offset", "has no value"),
        ("objective.noise_offset=a lot", "must be a number"),
        ("schedule.num_steps=1.5", "must be a whole number"),
        ("objective.reduction=publishd", "nearest is 'published'"),
        ("schedule.checkpointing=perhaps", "true or false"),
        ("schedule.betas=0.9", "2 values"),
    ],
)
def test_what_cannot_be_changed_is_one_line(change, said):
    with pytest.raises(UserError, match=said) as caught:
        with_changes(find_recipe("mini", "stage1"), [change])
    assert "\n" not in str(caught.value)


def test_the_first_difference_is_named():
    recipe = find_recipe("mini", "stage1")
    assert first_difference(recipe, recipe) is None
    other = replace(recipe, schedule=replace(recipe.schedule, num_steps=5))
    assert first_difference(other, recipe) == "schedule.num_steps is 5 here and was 3000"


def test_unknown_recipes_are_one_line():
    with pytest.raises(UserError, match="mini, published, smoke"):
        find_recipe("minni", "stage1")
    with pytest.raises(UserError, match="another version"):
        read_recipe({"name": "mini"}, "recipe.json")
