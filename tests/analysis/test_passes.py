"""Does every image pass a network once, whatever is asked, and is nothing computed twice?"""

import dataclasses
import shutil

import numpy as np
import pytest

from regvit_jax.analysis.engine import passes
from regvit_jax.analysis.engine.answer import answer
from regvit_jax.analysis.engine.passes import forecast, plan, run
from regvit_jax.analysis.engine.question import Keep, Question, shown_pixels
from regvit_jax.analysis.engine.subjects import Subject, open_images, open_subjects
from regvit_jax.analysis.outliers.streams import keep_norms
from regvit_jax.analysis.questions.norms.options import NormsOptions
from regvit_jax.errors import InputError
from tests.analysis.test_all import count_calls


@pytest.fixture
def options(checkpoints, pictures, tmp_path):
    return NormsOptions(
        checkpoint=(checkpoints["registers"],),
        data=str(pictures),
        out=tmp_path / "out",
        num_images=22,
        batch_size=8,
    )


def asking(name, options, keeps):
    subjects = open_subjects(options, "similarity")
    return Question(name, options, subjects, keeps, lambda *_: None, lambda *_: {})


def mean_tokens(images, preprocess):
    def fold(before, batch, tree):
        del tree
        return {"sum": np.asarray(before.get("sum", 0) + batch.pixels.sum(dtype=np.int64))}

    def reduce(trace, layout):
        return {"mean": trace.normed[:, layout.patches].mean(axis=1)}

    return Keep(("mean",), images, preprocess, reduce, fold=fold)


def test_questions_share_a_pass_and_equal_columns(options):
    images = open_images(options)
    few = images.only(images.indices[::5])
    first = asking(
        "first",
        options,
        lambda s: {
            "norms": keep_norms(images, s.preprocess),
            "shown": shown_pixels(images, s.preprocess, images.indices[3:5]),
        },
    )
    second = asking(
        "second",
        options,
        lambda s: {
            "labels": keep_norms(images, s.preprocess),
            "some": keep_norms(few, s.preprocess),
        },
    )
    works, folders = plan([first, second])
    (work,) = works
    assert work.questions == ("first", "second")
    assert len(work.keeps) == 3
    label = first.subjects[0].label
    assert folders["first", label, "norms"] == folders["second", label, "labels"]
    np.testing.assert_array_equal(work.images.indices, images.indices)
    assert work.blocks is None  # norms of every layer
    keep, depth = work.first, work.subject.config.depth
    of_blocks = {str(b): dataclasses.replace(keep, blocks=b) for b in ((-1,), (0,), ())}
    assert dataclasses.replace(work, keeps=of_blocks).blocks == (0, depth - 1)


def test_each_keep_has_the_rows_of_its_images(options, tmp_path, monkeypatch):
    images = open_images(options)
    chosen = images.indices[[2, 9, 20]]
    question = asking(
        "one",
        options,
        lambda s: {
            "mean": mean_tokens(images, s.preprocess),
            "shown": shown_pixels(images, s.preprocess, chosen),
        },
    )
    (work,), folders = plan([question])
    calls = count_calls(monkeypatch)
    stores = run(work, tmp_path / "columns")
    label = question.subjects[0].label
    mean, shown = (stores[folders["one", label, name]] for name in ("mean", "shown"))
    assert list(map(len, calls.images)) == [22]
    np.testing.assert_array_equal(mean.indices, images.indices)
    np.testing.assert_array_equal(shown.indices, chosen)
    preprocess = question.subjects[0].preprocess
    pixels = np.stack([preprocess.pixels(images.source[int(i)].image) for i in images.indices])
    np.testing.assert_array_equal(shown.read("pixels"), pixels[[2, 9, 20]])
    assert int(mean.folded["sum"]) == pixels.sum(dtype=np.int64)
    model, params = question.subjects[0].load(0)
    trace = model.apply({"params": params}, preprocess.normalise(pixels), method="trace")
    expected = np.asarray(trace.normed, np.float64)[:, model.layout(pixels.shape).patches]
    # float32 means of 64 patches of unit variance, in another order: measured 4e-7.
    np.testing.assert_allclose(mean.read("mean"), expected.mean(axis=1), rtol=0, atol=4e-6)


def test_a_pass_that_was_stopped_anywhere_ends_with_the_same_columns(
    options, tmp_path, monkeypatch
):
    images = open_images(options)
    question = asking("one", options, lambda s: {"mean": mean_tokens(images, s.preprocess)})
    (work,), _ = plan([question])
    (whole,) = run(work, tmp_path / "whole").values()
    append = passes._append

    def stop(*arguments):
        append(*arguments)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(passes, "_append", stop)
            with pytest.raises(KeyboardInterrupt):
                run(work, tmp_path / "parts")
    calls = count_calls(monkeypatch)
    (found,) = run(work, tmp_path / "parts").values()
    assert list(map(len, calls.images)) == [6]
    for name in ("index", "label", "mean"):
        np.testing.assert_array_equal(found.read(name), whole.read(name))
    np.testing.assert_array_equal(found.folded["sum"], whole.folded["sum"])
    run(work, tmp_path / "parts")
    assert len(calls.images) == 1  # nothing was left to do


def test_a_keep_that_came_later_gets_the_rows_it_lacks(options, tmp_path, monkeypatch):
    images = open_images(options)

    def mean(subject):
        return {"mean": mean_tokens(images, subject.preprocess)}

    def both(subject):
        return mean(subject) | {"norms": keep_norms(images, subject.preprocess)}

    (first,), _ = plan([asking("one", options, mean)])
    run(first, tmp_path)
    (second,), folders = plan([asking("one", options, both)])
    calls = count_calls(monkeypatch)
    stores = run(second, tmp_path)
    assert list(map(len, calls.images)) == [22]
    for store in stores.values():
        np.testing.assert_array_equal(store.indices, images.indices)
    assert len(folders) == 2


def test_images_that_cannot_be_read_are_named_and_counted(options, tmp_path, pictures):
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    broken = sorted(copy.rglob("*.png"))[3]
    broken.write_bytes(b"no picture")
    options = dataclasses.replace(options, data=str(copy), num_images=0)
    for skip in (False, True):
        asked = dataclasses.replace(options, skip_unreadable=skip)
        images = open_images(asked)
        keeps = {"x": lambda s, images=images: {"norms": keep_norms(images, s.preprocess)}}["x"]
        (work,), _ = plan([asking("one", asked, keeps)])
        if not skip:
            with pytest.raises(InputError, match=broken.name):
                run(work, tmp_path / "columns")
            continue
        (store,) = run(work, tmp_path / "columns").values()
        assert store.num_rows == len(images.indices) - 1
        assert [broken.name in message for message in store.skipped] == [True]


def test_a_question_hears_of_the_unreadable_images_that_it_asks_for(options, tmp_path, pictures):
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    asked = dataclasses.replace(options, data=str(copy), num_images=0, skip_unreadable=True)
    images = open_images(asked)
    names = [images.source.file_names[i] for i in images.indices]
    (copy / names[1]).write_bytes(b"no picture")
    half = images.only(images.indices[: len(names) // 2])
    rest = images.only(images.indices[len(names) // 2 :])
    question = asking(
        "one",
        asked,
        lambda s: {
            "half": keep_norms(half, s.preprocess),
            "rest": mean_tokens(rest, s.preprocess),
        },
    )
    (work,), folders = plan([question])
    stores = run(work, tmp_path / "columns")
    label = question.subjects[0].label
    assert len(stores[folders["one", label, "half"]].skipped) == 1
    assert stores[folders["one", label, "rest"]].skipped == []


def test_a_models_weights_are_read_once_for_all_its_passes(options, monkeypatch):
    images = open_images(options)
    first, second = images.only(images.indices[:4]), images.only(images.indices[4:8])

    def keeps(subject):
        squashed = dataclasses.replace(subject.preprocess, resize="squash")
        return {
            "a": keep_norms(first, subject.preprocess),
            "b": keep_norms(second, squashed),
        }

    subjects = open_subjects(options, "similarity")
    question = Question("norms", options, subjects, keeps, lambda *_: 1, lambda *_: {})
    loaded = []
    load = Subject.load
    monkeypatch.setattr(Subject, "load", lambda *given: loaded.append(1) or load(*given))
    assert len(plan([question])[0]) == 2
    answer(question)
    assert loaded == [1]


def test_a_forecast_says_what_a_pass_takes(options, tmp_path):
    images = open_images(options)
    question = asking("norms", options, lambda s: {"n": keep_norms(images, s.preprocess)})
    (work,), _ = plan([question])
    line = forecast(work, tmp_path / "f")
    assert line.startswith("registers, 22 images of ")
    assert "for norms: 0:0" in line
    assert line.endswith("0.1 MB on disk meanwhile")
