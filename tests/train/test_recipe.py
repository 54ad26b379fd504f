"""Does a recipe survive JSON, and does it refuse what makes no sense?"""

import json

import pytest

from regvit_jax.config import VARIANTS
from regvit_jax.errors import InputError
from regvit_jax.train.presets import PRESETS, preset
from regvit_jax.train.recipe import (
    DataConfig,
    OptimConfig,
    Recipe,
    describe,
    differences,
    is_binding,
    located,
)


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_comes_back_from_json(name):
    recipe = preset(name)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_the_study_is_the_official_recipe_with_half_the_batch_and_four_registers():
    assert differences(preset("official-800"), preset("study")) == [
        "model.num_registers: 0 before, 4 now",
        "data.batch_size: 2048 before, 1024 now",
        "keep_every_epochs: 0 before, 20 now",
    ]


def test_the_study_keeps_the_epochs_that_its_notebooks_read():
    kept = [epoch for epoch in range(800) if preset("study").keeps_epoch(epoch)]
    assert kept == [0, *range(19, 800, 20)]
    assert len(kept) == 41


@pytest.mark.parametrize(
    ("name", "variant", "rate", "drop_path", "decay", "pixels"),
    [
        ("official-800", "small", 4e-3, 0.05, 0.05, 224),
        ("official-800", "base", 3e-3, 0.2, 0.05, 192),
        ("official-400", "small", 4e-3, 0.0, 0.02, 224),
        ("official-400", "large", 3e-3, 0.4, 0.02, 192),
    ],
)
def test_published_recipes_are_as_published(name, variant, rate, drop_path, decay, pixels):
    recipe = preset(name, variant)
    assert recipe.model.embed_dim == VARIANTS[variant].embed_dim
    assert (recipe.optim.learning_rate, recipe.optim.weight_decay) == (rate, decay)
    assert (recipe.model.drop_path_rate, recipe.model.image_size) == (drop_path, pixels)
    assert (recipe.loss, recipe.optim.optimizer, recipe.data.repeats) == ("bce", "lamb", 3)


def test_a_size_without_a_published_recipe_is_refused():
    with pytest.raises(InputError, match="official-800 is published for the variant tiny"):
        preset("official-800", "tiny")
    with pytest.raises(InputError, match="no preset 'offical'"):
        preset("offical")
    assert preset("demo", "tiny").model.embed_dim == 192


def test_unknown_fields_are_refused():
    values = Recipe().to_json()
    values["optim"]["momentum"] = 0.9
    with pytest.raises(InputError, match=r"optim has unknown fields 'momentum'"):
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
        (lambda: Recipe(epochs=float("nan")), "epochs must be a finite number"),
        (lambda: Recipe(epochs=1e300), "epochs"),
        (lambda: Recipe(seed=-1), "seed"),
        (lambda: Recipe(label_smoothing=0.1), "does not go with bce"),
        (lambda: Recipe(save_steps=0), "save_steps"),
        (lambda: DataConfig(min_crop_area=0.0), "min_crop_area"),
        (lambda: DataConfig(batch_size=0), "batch_size"),
        (lambda: DataConfig(repeats=0), "repeats"),
        (lambda: DataConfig(colour_jitter=1.0), "colour_jitter"),
        (lambda: DataConfig(cutmix_rate=1.5), "cutmix_rate"),
        (lambda: DataConfig(mixup_alpha=-0.1), "mixup_alpha"),
        (
            lambda: DataConfig(batch_size=7, mixup_alpha=0.8),
            "even number of images, got groups of 7",
        ),
        (lambda: DataConfig(batch_size=384, cutmix_alpha=1.0, mix_group=256), "groups of 256"),
        (lambda: OptimConfig(learning_rate=float("nan")), "learning_rate"),
        (lambda: OptimConfig(weight_decay=-1.0), "weight_decay"),
    ],
)
def test_values_without_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_a_recipe_is_told_with_every_value():
    text = describe(preset("study"))
    for words in ("learning_rate 0.004", "num_registers 4", "mix_group 256", "epochs 800.0"):
        assert words in text
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "seed is '0', expected a whole number"),
        ({"epochs": None}, "epochs is null, expected a number"),
        ({"model": []}, "model is a list of 0, expected an object"),
        ({"data": {"batch_size": 8.5}}, "batch_size is 8.5, expected a whole number"),
        ({"loss": "hinge"}, "loss is 'hinge', expected one of 'bce', 'cross_entropy'"),
        ({"seed": 10**300}, "seed must be in"),
    ],
)
def test_json_with_wrong_types_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Recipe.from_json(Recipe().to_json() | change)


def test_one_folder_by_several_paths_is_no_difference(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    names = ["images", "images/", str(tmp_path / "images"), "./images", "link"]
    recipes = [Recipe(data=DataConfig(data=name), init=name) for name in names]
    for first in recipes:
        for second in recipes:
            assert differences(first, second) == []
    stored = located(recipes[0])
    monkeypatch.chdir("/")
    assert stored.data.data == stored.init == str(tmp_path / "images")
    assert differences(stored, recipes[2]) == []
    assert len(differences(stored, recipes[0])) == 2
    assert located(Recipe()) == Recipe()


def test_only_what_decides_the_parameters_binds_a_run(recipe, change):
    free = change(recipe, log_steps=7, save_steps=3, kept_states=9, skip_unreadable=True)
    assert not any(map(is_binding, differences(recipe, free)))
    assert all(map(is_binding, differences(recipe, change(recipe, seed=1, flip=True))))
