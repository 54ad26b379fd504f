"""Do analyses that fit, or look at images of several shapes, resume? Does LOST share a pass?"""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from regvit_jax.analysis.discovery.survey import Facts
from regvit_jax.analysis.engine.answer import answer, answer_all
from regvit_jax.analysis.engine.passes import plan
from regvit_jax.analysis.engine.written import question
from regvit_jax.analysis.questions import analysis_of, known
from regvit_jax.analysis.questions.lost import rules as rules_module
from regvit_jax.analysis.questions.lost.rules import LostRules
from regvit_jax.analysis.questions.probe import question as probe_question
from regvit_jax.analysis.report.contents import PNG
from regvit_jax.analysis.statistics import fit
from regvit_jax.checkpoint import CheckpointInfo, save
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import TINY, random_params
from tests.analysis.test_all import assert_alike, count_calls, read

FEW = {
    "lost": {"num_images": 22, "k": 20},
    "ablate": {"num_images": 20, "num_train_images": 16},
    "probe": {
        **{"num_images": 20, "num_train_images": 40},
        **{"draws": 1, "num_strengths": 3, "neighbours": (3,)},
    },
    "reconstruction": {
        **{"num_images": 20, "num_train_images": 40},
        **{"max_epochs": 3, "patches_per_image": 16},
    },
}
STOPS = {"lost": (8, 16), "ablate": (8, 48), "probe": (24, 48), "reconstruction": (24, 48)}
"""Numbers of images after which a command is stopped: for the fits, within either pass; for
`ablate`, within the first and within the pass that depends on it."""


@pytest.fixture(scope="module", autouse=True)
def _figures_without_ink():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, path, **options: path.write_bytes(PNG))
        yield


def asked(name, checkpoint, data, out, **changes):
    """A question on some data, answered into a folder of its name."""
    given = {"batch_size": 8, "bootstrap": 100, "num_shown": 1, **FEW.get(name, {})} | changes
    options = known()[name](checkpoint=(checkpoint,), data=str(data), out=out / name, **given)
    return question(analysis_of(name), options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, checkpoints, pictures):
    """A folder of results by commands that nothing stopped, and how many images each saw."""
    out, counts = tmp_path_factory.mktemp("whole"), {}
    for name in FEW:
        with pytest.MonkeyPatch.context() as patch:
            calls = count_calls(patch)
            answer(asked(name, checkpoints["planted"], pictures, out))
        counts[name] = sum(map(len, calls.images))
    return out, counts


def assert_resumed(name, whole, found):
    """Results are alike, the files too, and nothing else is left."""
    out, _ = whole
    assert_alike(read(found, name), read(out, name))
    files = [sorted(path.name for path in (folder / name).iterdir()) for folder in (out, found)]
    assert files[0] == files[1]
    assert [path.name for path in found.iterdir()] == [name]


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in FEW for place in (0, 1)])
def test_a_stopped_pass_goes_on_and_sees_no_image_twice(
    name, place, whole, tmp_path, checkpoints, pictures
):
    seen = []
    for stop_after in (STOPS[name][place], None):
        with pytest.MonkeyPatch.context() as patch:
            calls = count_calls(patch, stop_after)
            if stop_after is None:
                answer(asked(name, checkpoints["planted"], pictures, tmp_path))
            else:
                with pytest.raises(KeyboardInterrupt):
                    answer(asked(name, checkpoints["planted"], pictures, tmp_path))
                assert not (tmp_path / name).exists()
        seen.append(sum(map(len, calls.images)))
    assert min(seen) > 0
    assert sum(seen) == whole[1][name]
    assert_resumed(name, whole, tmp_path)


def stopping(patch, module, attribute, stop_after):
    """Notes the calls of a function; after so many, the command is stopped."""
    calls, original = [], getattr(module, attribute)

    def noted(path, *arguments):
        original(path, *arguments)
        calls.append(path.name)
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    patch.setattr(module, attribute, noted)
    return calls


def resumed_fits(module, attribute, ask):
    """What a command that is stopped at the second call saves, and the same command after it."""
    with pytest.MonkeyPatch.context() as patch:
        first = stopping(patch, module, attribute, 2)
        with pytest.raises(KeyboardInterrupt):
            answer(ask())
    with pytest.MonkeyPatch.context() as patch:
        images = count_calls(patch).images
        second = stopping(patch, module, attribute, None)
        answer(ask())
    assert images == []
    return first, second


def test_probed_kinds_outlive_a_stop(whole, tmp_path, checkpoints, pictures):
    first, second = resumed_fits(
        probe_question,
        "save_kind",
        lambda: asked("probe", checkpoints["planted"], pictures, tmp_path),
    )
    (model,) = read(whole[0], "probe")["models"]
    assert [name.removesuffix(".npz") for name in first + second] == list(model["fits"])
    assert_resumed("probe", whole, tmp_path)


def test_epochs_outlive_a_stop(whole, tmp_path, checkpoints, pictures, monkeypatch):
    monkeypatch.setattr(fit, "SECONDS_BETWEEN_SAVES", -1.0)
    first, second = resumed_fits(
        fit,
        "_save",
        lambda: asked("reconstruction", checkpoints["planted"], pictures, tmp_path),
    )
    # After each of three epochs, and at the end of a fit: the first two are not repeated.
    (mlp,) = set(first)
    assert second.count(mlp) == 2
    assert len(second) == 2 + 4
    assert_resumed("reconstruction", whole, tmp_path)


# --- LOST's pass over images that evaluation leaves as they are ----------------------------------


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Twelve pictures of exactly the model's input size, and one that is wider."""
    folder = tmp_path_factory.mktemp("exact")
    generator = np.random.default_rng(6)
    for i in range(13):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3)).astype(np.uint8))
        size = (32, 32) if i < 12 else (38, 32)
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


SIZES = {"exact": (32, 32), "wide": (38, 32)}


def saved(folder, preprocess):
    save(folder, random_params(TINY), CheckpointInfo(TINY, {"kind": "test"}, (), preprocess))
    return folder


@pytest.mark.parametrize(
    ("preprocess", "is_shared"),
    [
        (Preprocess.square(32), True),
        (Preprocess(32, 32, resize="squash", short_side=37), True),
        (Preprocess(32, 32, short_side=37), False),
    ],
)
def test_lost_shares_the_pass_of_norms_where_nothing_is_resized(
    preprocess, is_shared, exact, tmp_path
):
    checkpoint = saved(tmp_path / "checkpoint", preprocess)
    questions = [
        asked(name, checkpoint, exact, tmp_path, num_images=0) for name in ("norms", "lost")
    ]
    passes, _ = plan(questions)
    shared = [work for work in passes if work.questions == ("norms", "lost")]
    assert len(shared) == int(is_shared)
    sizes = sorted(len(work.images.indices) for work in passes if "lost" in work.questions)
    # The wider picture has a shape of its own; norms crop it and keep it in their pass.
    assert sizes == ([1, 13] if is_shared else [1, 12])


def test_images_left_as_they_are_equal_padded_ones(exact):
    preprocess, rules = Preprocess.square(32), LostRules()
    facts = {
        name: Facts(*size, np.zeros((0, 4)), np.zeros(0, bool)) for name, size in SIZES.items()
    }
    found = {name: rules.preprocess(preprocess, each, 4) for name, each in facts.items()}
    assert found["exact"] == preprocess
    assert found["wide"] == preprocess.padding(32, 38, 4)
    padding = preprocess.padding(32, 32, 4)
    for path in sorted(exact.iterdir())[:12]:
        pixels, padded = (each.pixels(path) for each in (preprocess, padding))
        np.testing.assert_array_equal(padded[..., :3], pixels)
        assert (padded[..., 3] == 255).all()
        normalised = [
            np.asarray(p.normalise(x)) for p, x in ((preprocess, pixels), (padding, padded))
        ]
        np.testing.assert_array_equal(*normalised)


def test_boxes_are_those_of_a_pass_of_their_own(exact, tmp_path, monkeypatch):
    checkpoint = saved(tmp_path / "checkpoint", Preprocess.square(32))
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    questions = [
        asked(name, checkpoint, exact, together, num_images=0) for name in ("norms", "lost")
    ]
    answer_all(questions, together / "columns")
    monkeypatch.setattr(rules_module, "_is_whole", lambda preprocess, facts: False)
    alone.mkdir()
    answer(asked("lost", checkpoint, exact, alone, num_images=0))
    boxes = [json.loads((f / "lost" / "predictions.json").read_text()) for f in (together, alone)]
    assert boxes[0] == boxes[1]
    assert len(boxes[0]) == 13
