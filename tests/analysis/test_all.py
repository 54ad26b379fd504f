"""Does one pass answer like the single commands, once per image, and go on after a stop?"""

import collections
import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from regvit_jax.analysis import all_command
from regvit_jax.analysis.engine import extract
from regvit_jax.analysis.engine.answer import answer
from regvit_jax.analysis.engine.written import question
from regvit_jax.analysis.options import AllOptions
from regvit_jax.analysis.questions import analysis_of, known
from regvit_jax.analysis.questions.attention.options import AttentionOptions
from regvit_jax.analysis.questions.lost.options import LostOptions
from regvit_jax.analysis.questions.norms.options import NormsOptions
from regvit_jax.analysis.questions.reconstruction.options import ReconstructionOptions
from regvit_jax.analysis.questions.similarity.options import SimilarityOptions
from regvit_jax.analysis.report.contents import PNG
from regvit_jax.errors import InputError
from tests.analysis.conftest import write_pictures

IN_ONE_PASS = ("norms", "attention", "similarity")
SKIPPED = tuple(sorted(known().keys() - set(IN_ONE_PASS)))
NUM_IMAGES = 22
BATCH_SIZE = 8

# One program computes all questions or one of them: XLA may add in another order.
ATOL = 1e-5


@dataclasses.dataclass
class Calls:
    """Images that passed a network, by compiled extraction."""

    images: list[list[int]] = dataclasses.field(default_factory=list)


def count_calls(patch: pytest.MonkeyPatch, stop_after: int | None = None) -> Calls:
    """Notes the images of every batch that an `Extractor` computes; may stop the command."""
    calls, original = Calls(), extract.Extractor.__call__

    def counted(self, batches):
        calls.images.append([])
        for batch, reduced in original(self, batches):
            if stop_after is not None and sum(map(len, calls.images)) >= stop_after:
                raise KeyboardInterrupt
            calls.images[-1] += batch.indices.tolist()
            yield batch, reduced

    patch.setattr(extract.Extractor, "__call__", counted)
    return calls


def options_of(out, checkpoints, pictures, **changes) -> AllOptions:
    given = {
        "checkpoint": (checkpoints["registers"],),
        "data": str(pictures),
        "num_images": NUM_IMAGES,
        "batch_size": BATCH_SIZE,
        "bootstrap": 100,
        "num_shown": 2,
        "skip": SKIPPED,
    }
    return AllOptions(out=out, **(given | changes))


def read(folder, name):
    return json.loads((folder / name / "results.json").read_text())


def assert_alike(found, expected, place="") -> None:
    """The same JSON, numbers within `ATOL`."""
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_alike(found[key], expected[key], f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_alike(one, other, f"{place}/{i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=ATOL, abs=ATOL), place
    else:
        assert found == expected, place


@pytest.fixture(scope="module", autouse=True)
def _figures_without_ink():
    """Figures are tested with the single commands; here they are built and not rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, path, **options: Path(path).write_bytes(PNG))
        yield


@pytest.fixture(scope="module")
def together(tmp_path_factory, checkpoints, pictures):
    """The folder of one `all`, what it returned, and the images that passed the networks."""
    out = tmp_path_factory.mktemp("together") / "out"
    with pytest.MonkeyPatch.context() as patch:
        calls = count_calls(patch)
        results = all_command.analyse(options_of(out, checkpoints, pictures))
    return out, results, calls


def test_every_image_passes_every_network_once(together):
    out, results, calls = together
    checkpoint, closer, twin = calls.images
    assert set(closer) <= set(checkpoint)
    assert len(closer) <= 64  # the second, small pass of `norms`
    for images in (checkpoint, twin):
        assert len(images) == NUM_IMAGES
        assert max(collections.Counter(images).values()) == 1
    assert sorted(results["analyses"]) == sorted([*IN_ONE_PASS, "compare"])
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*IN_ONE_PASS, "compare", "report.html", "report.md"]
    )


@pytest.mark.parametrize("name", IN_ONE_PASS)
def test_the_numbers_are_the_single_commands(name, together, tmp_path, checkpoints, pictures):
    out, _, _ = together
    options = options_of(tmp_path, checkpoints, pictures).of(known()[name], name)
    answer(question(analysis_of(name), options))
    assert_alike(read(tmp_path, name), read(out, name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    files = [sorted(p.name for p in (folder / name).iterdir()) for folder in (tmp_path, out)]
    assert files[0] == files[1]


def test_the_page_has_every_analysis_and_its_numbers(together):
    out, results, _ = together
    page = (out / "report.html").read_text()
    for text in ("Token norms", "Attention", "Similarity of neighbours", "Models side by side"):
        assert f"<h2>{text}</h2>" in page
    numbers = read(out, "similarity")["models"][0]["numbers"]
    similarity = numbers["similarity/labels/quantile_98/auc"]
    low, high = similarity["interval"]
    assert f"{similarity['value']:.3f} [{low:.3f}, {high:.3f}], n {NUM_IMAGES}" in page
    assert any(str(out / "report.html") in line for line in all_command.summary_lines(results))


def test_finished_analyses_are_kept(together, checkpoints, pictures, monkeypatch, capsys):
    out, _, _ = together
    times = {name: (out / name / "results.json").stat().st_mtime_ns for name in IN_ONE_PASS}
    calls = count_calls(monkeypatch)
    all_command.analyse(options_of(out, checkpoints, pictures))
    assert calls.images == []
    assert "norms: already there, kept." in capsys.readouterr().err
    for name, time in times.items():
        assert (out / name / "results.json").stat().st_mtime_ns == time
    all_command.analyse(options_of(out, checkpoints, pictures, overwrite=True))
    assert calls.images == []  # it replaces results of another configuration only
    with pytest.raises(InputError, match="another configuration"):
        all_command.analyse(options_of(out, checkpoints, pictures, seed=1))


def test_an_analysis_with_a_pass_of_its_own_is_kept_too(tmp_path, checkpoints, pictures, capsys):
    skip = tuple(known().keys() - {"lost"})
    options = options_of(tmp_path / "out", checkpoints, pictures, skip=skip)
    all_command.analyse(options)
    assert "kept" not in capsys.readouterr().err
    all_command.analyse(options)
    assert "lost: already there, kept." in capsys.readouterr().err


def test_a_stopped_command_goes_on_where_it_was(
    together, tmp_path, checkpoints, pictures, monkeypatch
):
    out, _, _ = together
    skip = ("attention", *SKIPPED)
    options = options_of(tmp_path / "out", checkpoints, pictures, skip=skip)
    with monkeypatch.context() as patch:
        count_calls(patch, stop_after=2 * NUM_IMAGES + BATCH_SIZE)  # within the untrained twin
        with pytest.raises(KeyboardInterrupt):
            all_command.analyse(options)
    assert not (tmp_path / "out" / "norms").exists()
    with monkeypatch.context() as patch:
        calls = count_calls(patch)
        all_command.analyse(options)
    assert list(map(len, calls.images)) == [NUM_IMAGES - BATCH_SIZE]
    for name in ("norms", "similarity"):
        assert_alike(read(tmp_path / "out", name), read(out, name))
    assert not (tmp_path / "out" / all_command.COLUMNS_FOLDER).exists()


def test_what_does_not_apply_is_left_out_with_a_sentence(tmp_path, checkpoints):
    flat = write_pictures(tmp_path / "pictures", 6, classes=("ant",))
    options = options_of(tmp_path / "out", checkpoints, flat, skip=(), image_size=32)
    questions, notes = all_command.open_questions(options)
    assert [question.name for question in questions] == [
        *IN_ONE_PASS,
        "reconstruction",
        "ablate",
        "neurons",
        "sinks",
    ]
    assert len(notes) == 3
    assert notes[0].startswith("lost was left out: --image-size")
    assert "one" in notes[1] or "two or more" in notes[1]
    unlabelled = write_pictures(tmp_path / "flat", 6, classes=("",))
    options = options_of(tmp_path / "out", checkpoints, unlabelled, skip=(), split="train")
    questions, notes = all_command.open_questions(options)
    assert [question.name for question in questions] == [*IN_ONE_PASS, "lost", "neurons", "sinks"]
    assert "learn on the training part" in notes[0]
    with pytest.raises(InputError, match="No analysis is left"):
        all_command.open_questions(
            options_of(tmp_path / "out", checkpoints, flat, skip=(*IN_ONE_PASS, *SKIPPED))
        )


def test_the_options_of_each_analysis_are_its_own_unless_given(tmp_path):
    options = AllOptions(checkpoint=(tmp_path,), data="digits", out=tmp_path)
    for kind, name in (
        (NormsOptions, "norms"),
        (AttentionOptions, "attention"),
        (SimilarityOptions, "similarity"),
        (LostOptions, "lost"),
    ):
        alone = kind(checkpoint=(tmp_path,), data="digits", out=tmp_path / name)
        assert options.of(kind, name) == alone
    few = dataclasses.replace(options, num_train_images=7)
    assert few.of(ReconstructionOptions, "reconstruction").num_train_images == 7
    assert few.of(NormsOptions, "norms") == options.of(NormsOptions, "norms")
    with pytest.raises(InputError, match="at least 100"):
        AllOptions(checkpoint=(tmp_path,), data="digits", out=tmp_path, bootstrap=3)
