"""Do intervals, paired differences and tables follow from an analysis's numbers alone?"""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Lead,
    Measured,
    Model,
    Quantity,
    Table,
    Told,
)
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.results import ResultFolder, read_results
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.engine.written import question, summary_lines
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.analysis.statistics.bootstrap import Estimate, Resampled

NUM_IMAGES = 40
REPLICATES = 200
SEED = 3
PLACES = ("first", "second")
TABLE = Table(
    "made_up",
    "Made-up numbers",
    ("place",),
    {
        "mean": Quantity("a mean", is_compared=True),
        "hits": Quantity("a share", is_share=True, is_compared=True),
        "aside": Quantity("a mean by which nothing is compared"),
        "largest": Quantity("a maximum", is_compared=True),
    },
)
TOTAL = Table("total", "Over all places", (), {"mean": Quantity("a mean", is_compared=True)})


def values_of(subject: Subject) -> np.ndarray:
    """A value for every image and place."""
    seed = subject.config.num_registers
    return np.random.default_rng(seed).normal(1 + seed / 4, 1, (NUM_IMAGES, len(PLACES)))


def measure(subject, kept, asked) -> Measured:
    values = values_of(subject)
    bootstrap = asked.bootstrap(NUM_IMAGES)
    numbers = {}
    means = bootstrap.resampled(values, lambda means: means)
    hits = bootstrap.resampled((values > 2).astype(float), lambda means: means)
    for i, place in enumerate(PLACES):
        numbers[TABLE.name, place, "mean"] = means[i]
        numbers[TABLE.name, place, "aside"] = means[i]
        own = bootstrap.share((values[:, i] > 2).astype(float))
        numbers[TABLE.name, place, "hits"] = Told(own, hits[i])
    numbers[TABLE.name, "first", "largest"] = Estimate(float(values[:, 0].max()), NUM_IMAGES)
    (total,) = bootstrap.resampled(values.mean(axis=1, keepdims=True), lambda means: means)
    if subject.config.num_registers:  # the other model's is undefined
        numbers[TOTAL.name, "mean"] = total
    facts = {"place_of_largest": np.int64(values[:, 0].argmax())}
    return Measured(NUM_IMAGES, numbers, facts, remarks=["Nothing was looked at."])


ANALYSIS = Analysis(
    name="made_up",
    heading="Made up",
    text="Do numbers follow?",
    tables=(TABLE, TOTAL),
    keeps=lambda subject, asked: {
        "none": Keep(
            ("none",), asked.images, subject.preprocess, lambda trace, layout: {"x": jnp.zeros(1)}
        )
    },
    measure=measure,
    lead=lambda options: [
        Lead((TABLE.name, "first", "mean"), "the first mean"),
        Lead((TABLE.name, "second", "hits"), "hits"),
        Lead((TOTAL.name, "mean"), "all"),
    ],
)


def draws() -> np.ndarray:
    """The images of every resample, as `Bootstrap` draws them: 100 resamples of a generator."""
    blocks = [
        np.random.default_rng((SEED, start)).integers(NUM_IMAGES, size=(100, NUM_IMAGES))
        for start in range(0, REPLICATES, 100)
    ]
    return np.concatenate(blocks)


def interval(samples: np.ndarray) -> list[float]:
    """Percentiles at the levels of Student's t, with SciPy's kurtosis."""
    n, excess = NUM_IMAGES, max(scipy.stats.kurtosis(samples), 0.0)
    freedom = max(2 / (2 / (n - 1) + excess), 1)
    tail = scipy.stats.norm.cdf(-scipy.stats.t.ppf(0.975, freedom) * (n / (n - 1)) ** 0.5)
    return [float(x) for x in np.quantile(samples, [tail, 1 - tail])]


@pytest.fixture(scope="module")
def asked(tmp_path_factory, checkpoints, pictures):
    """The made-up question about two models; nothing is read of their images."""
    out = tmp_path_factory.mktemp("written") / "out"
    options = ImageOptions(
        checkpoint=(checkpoints["plain"], checkpoints["registers"]),
        data=str(pictures),
        out=out,
        num_images=NUM_IMAGES,
        bootstrap=REPLICATES,
        seed=SEED,
    )
    return question(ANALYSIS, options)


@pytest.fixture(scope="module")
def written(asked, tmp_path_factory):
    """The folder of the results, and what was written."""
    kept = Kept({"none": Columns({})}, tmp_path_factory.mktemp("fits"))
    entries = [asked.measure(subject, kept) for subject in asked.subjects]
    with ResultFolder(asked.options.out, asked.name, asked.configuration) as folder:
        results = asked.write(folder, entries)
        folder.finish(results)
    return asked.options.out, results, [values_of(subject) for subject in asked.subjects]


def test_numbers_have_the_intervals_of_resampled_images(written):
    out, _, values = written
    drawn = draws()
    for model, each in zip(read_results(out)["models"], values, strict=True):
        for i, place in enumerate(PLACES):
            found = model["numbers"][f"made_up/{place}/mean"]
            samples = each[drawn, i].mean(axis=1)
            # Resampled means are sums in float32.
            assert found["value"] == pytest.approx(each[:, i].mean(), abs=1e-12)
            assert found["interval"] == pytest.approx(interval(samples), abs=2e-6)
            assert found["n"] == NUM_IMAGES
        largest = model["numbers"]["made_up/first/largest"]
        assert largest == {"value": each[:, 0].max(), "n": NUM_IMAGES, "interval": None}
        assert model["place_of_largest"] == each[:, 0].argmax()
    assert [("total/mean" in model["numbers"]) for model in read_results(out)["models"]] == [
        False,
        True,
    ]


def test_a_number_with_an_interval_of_its_own_keeps_it(written):
    out, _, values = written
    for model, each in zip(read_results(out)["models"], values, strict=True):
        found = model["numbers"]["made_up/first/hits"]
        hits = int((each[:, 0] > 2).sum())
        assert found["value"] == pytest.approx(hits / NUM_IMAGES)
        # Images that are hits or not are coins: Clopper's and Pearson's interval.
        ends = scipy.stats.binomtest(hits, NUM_IMAGES).proportion_ci(0.95, "exact")
        assert found["interval"] == pytest.approx([ends.low, ends.high], abs=1e-9)


def test_models_are_compared_image_by_image_in_what_is_compared(written):
    out, _, (first, second) = written
    (pair,) = read_results(out)["comparisons"]
    assert (pair["from"], pair["to"], pair["paired"]) == ("plain", "registers", True)
    # Not `aside`, nor the maximum without resamples, nor what one model has alone.
    assert sorted(pair["differences"]) == sorted(
        f"made_up/{place}/{name}" for place in PLACES for name in ("mean", "hits")
    )
    drawn = draws()
    for i, place in enumerate(PLACES):
        for name, values in (
            ("mean", second - first),
            ("hits", (second > 2.0) * 1.0 - (first > 2)),
        ):
            found = pair["differences"][f"made_up/{place}/{name}"]
            assert found["value"] == pytest.approx(values[:, i].mean(), abs=1e-12)
            samples = values[drawn, i].mean(axis=1)
            assert found["interval"] == pytest.approx(interval(samples), abs=4e-6)


def rows_of(path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_tables_have_a_row_for_every_model_and_place(written):
    out, _, values = written
    rows = rows_of(out / "made_up.csv")
    assert [(row["model"], row["num_registers"], row["place"]) for row in rows] == [
        (model, registers, place)
        for model, registers in (("plain", "0"), ("registers", "4"))
        for place in PLACES
    ]
    numbers = [model["numbers"] for model in read_results(out)["models"]]
    for at, row in enumerate(rows):
        assert row["n"] == str(NUM_IMAGES)
        for name in TABLE.quantities:
            found = numbers[at // 2].get(f"made_up/{row['place']}/{name}")
            ends = (found and found["interval"]) or (None, None)
            expected = [found and found["value"], *ends]
            cells = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            for cell, value in zip(cells, expected, strict=True):
                assert cell == ("" if value is None else f"{value:.7g}")
    (row,) = rows_of(out / "total.csv")
    assert row["model"] == "registers"
    assert float(row["mean"]) == pytest.approx(values[1].mean(), rel=1e-6)
    compared = rows_of(out / "comparisons.csv")
    assert {row["quantity"] for row in compared} == {
        f"made_up/{place}/{name}" for place in PLACES for name in ("mean", "hits")
    }


def test_results_say_what_the_numbers_are(written):
    out, _, _ = written
    results = read_results(out)
    assert results["format"] == 2
    assert results["measured"]["made_up"]["axes"] == ["place"]
    quantities = results["measured"]["made_up"]["quantities"]
    assert {name: q["title"] for name, q in quantities.items()} == {
        name: q.title for name, q in TABLE.quantities.items()
    }
    assert [(lead["key"], lead["is_share"]) for lead in results["lead"]] == [
        ("made_up/first/mean", False),
        ("made_up/second/hits", True),
        ("total/mean", False),
    ]
    assert results["data"]["num_images"] == NUM_IMAGES
    assert {"made_up.csv", "total.csv", "comparisons.csv"} == set(results["files"])


def test_the_lines_that_are_printed_lead_with_what_the_analysis_says(written):
    _, results, (first, second) = written
    lines = summary_lines(results)
    titles = [model["title"] for model in results["models"]]
    assert lines[0].startswith(f"{titles[0]}: the first mean {first[:, 0].mean():.3f} [")
    assert lines[1].startswith(f"{titles[0]}: hits {100 * np.mean(first[:, 1] > 2):.1f} % [")
    assert lines[2] == "  Nothing was looked at."
    assert any(line.startswith(f"{titles[1]}: all {second.mean():.3f} [") for line in lines)
    difference = np.mean(second[:, 0] - first[:, 0])
    assert any(
        line.startswith(f"plain -> registers: the first mean {difference:.3f} [") for line in lines
    )


@pytest.mark.parametrize(
    "key",
    [
        ("elsewhere", "first", "mean"),
        ("made_up", "first", "median"),
        ("made_up", "mean"),
        ("made_up", "first", "deep", "mean"),
        ("made_up", "a/b", "mean"),
        ("total", "first", "mean"),
    ],
    ids="/".join,
)
def test_a_key_without_a_place_is_refused(key, asked, tmp_path):
    wrong = dataclasses.replace(
        ANALYSIS,
        measure=lambda *given: Measured(NUM_IMAGES, {key: Resampled(0.0, np.zeros(REPLICATES))}),
    )
    wrongly = question(wrong, asked.options)
    with pytest.raises(ValueError, match="has no table with a place for"):
        wrongly.measure(asked.subjects[0], Kept({"none": Columns({})}, tmp_path))


def test_figures_are_given_the_numbers_with_their_intervals(asked, written, tmp_path):
    given: list[Model] = []
    drawing = dataclasses.replace(
        ANALYSIS, figures=lambda models, asked: given.extend(models) or []
    )
    again = question(drawing, dataclasses.replace(asked.options, out=tmp_path / "out"))
    kept = Kept({"none": Columns({})}, tmp_path)
    entries = [again.measure(subject, kept) for subject in again.subjects]
    with ResultFolder(again.options.out, again.name, again.configuration) as folder:
        again.write(folder, entries)
    assert [model.subject.label for model in given] == ["plain", "registers"]
    numbers = read_results(written[0])["models"][1]["numbers"]
    found = {"/".join(key): number.to_json() for key, number in given[1].estimates.items()}
    assert found == numbers
