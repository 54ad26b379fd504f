"""Does a recipe survive JSON, and does it refuse what makes no sense?"""

import json

import pytest

from regvit_jax.errors import InputError
from train.presets import PRESETS
from train.recipe import DataConfig, OptimConfig, Recipe, differences


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recipe_comes_back_from_json(preset):
    recipe = PRESETS[preset]
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_unknown_fields_are_refused():
    values = Recipe().to_json()
    values["optim"]["momentum"] = 0.9
    with pytest.raises(InputError, match=r"unknown fields \['momentum'\]"):
        Recipe.from_json(values)


def test_differences_name_field_and_both_values(recipe, change):
    assert differences(recipe, recipe) == []
    changed = change(recipe, seed=3, batch_size=16)
    assert differences(recipe, changed) == [
        "data.batch_size: 8 before, 16 now",
        "seed: 0 before, 3 now",
    ]


@pytest.mark.parametrize(("batch_size", "steps"), [(1024, 1251), (2048, 625)])
def test_imagenet_has_the_studys_number_of_steps(batch_size, steps):
    """1,281,167 images; repeated augmentation uses 1,281,024 of them, with the same result."""
    recipe = Recipe(data=DataConfig(batch_size=batch_size), epochs=800.0)
    assert recipe.steps_per_epoch(1_281_167) == steps
    assert recipe.total_steps(1_281_167) == 800 * steps


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recipe(epochs=0.0), "epochs"),
        (lambda: Recipe(label_smoothing=0.1), "does not go with bce"),
        (lambda: Recipe(save_steps=0), "save_steps"),
        (lambda: DataConfig(min_crop_area=0.0), "min_crop_area"),
        (lambda: DataConfig(batch_size=0), "batch_size"),
        (lambda: OptimConfig(learning_rate=float("nan")), "learning_rate"),
        (lambda: OptimConfig(weight_decay=-1.0), "weight_decay"),
    ],
)
def test_values_without_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
