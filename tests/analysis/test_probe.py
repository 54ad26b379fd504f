"""Are the right tokens probed, and is accuracy what it says?"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.questions.probe.kept_kinds import load_kind, save_kind
from regvit_jax.analysis.questions.probe.options import ProbeOptions
from regvit_jax.analysis.questions.probe.probe import (
    Examples,
    ProbePlan,
    accuracy,
    difference,
    find_outliers,
    fit_logistic,
    fit_neighbours,
    probe_kind,
)
from regvit_jax.analysis.questions.probe.tokens import (
    BESIDE,
    CLS_REGISTER,
    EARLY,
    MEAN_PATCH,
    MEAN_REGISTER,
    NEIGHBOUR,
    NORMAL,
    OUTLIER,
    ProbedTokens,
    TokenStore,
    kept_tokens,
    kind_names,
    probed_tokens,
    prominence,
)
from regvit_jax.tokens import TokenLayout
from tests.analysis.conftest import norm_columns

DIM, PLAN = 6, ProbePlan((0.01, 1.0), (3, 5), draws=3, without_outlier="skip", seed=0)


def store_of(
    tokens, norms, labels, num_registers=2, draws=3, parts=(slice(0, 5), slice(5, None)), cut=5.0
):
    """A store of columns kept in two batches; a patch's vector starts with its place."""
    indices, rows = np.arange(len(tokens)), []
    for part in parts:
        mean = tokens[part, 1 + num_registers :].mean(axis=1)
        reduced = ProbedTokens(tokens[part], mean, norms[part], -tokens[part, 1 + num_registers :])
        rows.append(kept_tokens(indices[part], reduced, 4, draws, seed=1))
    kept = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    columns = Columns({"index": indices, "label": labels, **kept})
    return TokenStore(columns, norms, norms > cut, num_registers, seed=1)


@pytest.fixture
def example():
    """12 images of 3 x 4 patches; images 0 to 8 have outliers at places i % 12 and 11."""
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(12, 15, DIM)).astype(np.float32)
    tokens[:, 3:, 0] = np.arange(12)
    norms = generator.uniform(1, 2, (12, 12)).astype(np.float32)
    for i in range(9):
        norms[i, [i % 12, 11]] = (10, 12)
    labels = np.arange(12) % 3
    store = store_of(tokens, norms, labels)
    return store, tokens, norms


def test_each_kind_is_read_from_its_place(example):
    store, tokens, _ = example
    np.testing.assert_array_equal(store.features("cls", 0), tokens[:, 0])
    np.testing.assert_array_equal(store.features("register_1", 0), tokens[:, 2])
    expected = tokens[:, 3:].mean(axis=1)
    np.testing.assert_allclose(store.features(MEAN_PATCH, 0), expected, rtol=0, atol=1e-7)
    mean_register = tokens[:, 1:3].mean(axis=1)
    np.testing.assert_allclose(store.features(MEAN_REGISTER, 0), mean_register, rtol=0, atol=1e-6)
    both = store.features(CLS_REGISTER, 0)
    np.testing.assert_array_equal(both[:, :DIM], tokens[:, 0])
    assert both.shape == (12, 2 * DIM)


def test_outliers_are_drawn_among_the_patches_above_the_cut(example):
    store, _, norms = example
    places = np.stack([store.features(OUTLIER, draw)[:, 0] for draw in range(3)])
    for i in range(9):
        assert set(places[:, i]) <= {float(i % 12), 11.0}
    assert len(np.unique(places[:, :9], axis=0)) > 1
    np.testing.assert_array_equal(store.has(OUTLIER), np.arange(12) < 9)
    # An image without an outlier gives its largest patch.
    np.testing.assert_array_equal(places[:, 9:], np.tile(norms[9:].argmax(axis=1), (3, 1)))


def test_normal_patches_are_drawn_below_the_cut_and_unlike_in_each_draw(example):
    store, _, norms = example
    places = np.stack([store.features(NORMAL, draw)[:, 0] for draw in range(3)]).astype(int)
    assert (norms[np.arange(12), places] <= 5.0).all()
    assert all(len(set(column)) == 3 for column in places.T)


def test_every_outlier_is_equally_likely():
    generator = np.random.default_rng(2)
    tokens = generator.normal(size=(600, 13, 2)).astype(np.float32)
    tokens[:, 1:, 0] = np.arange(12)
    norms = np.where(np.arange(12) < 4, 10.0, 1.0) + generator.uniform(0, 0.1, (600, 12))
    store = store_of(tokens, norms.astype(np.float32), np.zeros(600, int), num_registers=0)
    counts = np.bincount(store.features(OUTLIER, 0)[:, 0].astype(int), minlength=12)
    assert counts[4:].sum() == 0
    assert (np.abs(counts[:4] - 150) < 45).all()  # four standard deviations


def test_draws_do_not_depend_on_the_batches(example):
    store, tokens, norms = example
    other = store_of(tokens, norms, np.arange(12) % 3, parts=(slice(None),))
    for kind in (NORMAL, OUTLIER):
        for draw in range(3):
            np.testing.assert_array_equal(store.features(kind, draw), other.features(kind, draw))


def test_kinds_follow_the_registers():
    controls = ["normal_patch_beside", "outliers_neighbour", "outlier_in_block_0"]
    assert kind_names(0) == ["cls", "mean_patch", "normal_patch", "outlier_patch", *controls]
    assert kind_names(1)[7:] == ["register_0", "cls_and_mean_register"]
    assert kind_names(4)[-2:] == ["mean_register", "cls_and_mean_register"]


@pytest.mark.parametrize("stream", ["normed", "last"])
def test_the_reduction_reads_the_trace(traced, stream):
    _, _, trace, layout = traced
    found = probed_tokens(stream)(trace, layout)
    tokens = np.asarray(trace.normed if stream == "normed" else trace.blocks[-1].tokens)
    np.testing.assert_array_equal(found.tokens, tokens)
    last = np.asarray(trace.blocks[-1].tokens)[:, layout.patches]
    first = np.asarray(trace.blocks[0].tokens)[:, layout.patches]
    np.testing.assert_array_equal(found.early, first)
    ahead = np.asarray(found.prominence).argmax(axis=1)
    largest = np.linalg.norm(last.astype(np.float64), axis=-1).argmax(axis=1)
    np.testing.assert_array_equal(ahead, largest)


def test_patches_that_lead_in_any_layer_are_kept():
    norms = np.ones((1, 4, 30)) + np.arange(30) / 1000
    norms[0, 1, 3], norms[0, 2, 7], norms[0, 3, 11] = 9.0, 9.0, 9.0
    order = np.argsort(-np.asarray(prominence(jnp.asarray(norms)))[0], kind="stable").tolist()
    assert order[0] == 11  # of equals, the first of the last layer
    assert {3, 7, 11} <= set(order[:4])


def clouds(num_images, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=num_images)
    centres = np.random.default_rng(9).normal(size=(3, 8))
    features = centres[labels] + generator.normal(size=(num_images, 8))
    return features.astype(np.float32), labels


def test_the_chosen_strength_is_refitted_to_all_images_as_scikit_learn_would():
    features, labels = clouds(300, 0)
    others, other_labels = clouds(200, 1)
    everything = np.ones(300, bool)
    found = fit_logistic(
        Examples(features, labels, everything),
        Examples(others, other_labels, np.ones(200, bool)),
        (1e-4, 1e-2, 1.0),
        seed=0,
    )
    assert found.tried.shape == (3,)
    assert found.choice in (1e-4, 1e-2, 1.0)
    reference = LogisticRegression(C=found.choice, tol=1e-10, max_iter=2000).fit(features, labels)
    right = reference.predict(others) == other_labels
    assert (found.is_right == right).mean() > 0.995


def test_a_class_without_a_used_image_is_never_predicted():
    features, labels = clouds(300, 0)
    used = labels != 1
    others = Examples(features, labels, np.ones(300, bool))
    found = fit_logistic(Examples(features, labels, used), others, (1.0,), seed=0)
    assert not found.is_right[labels == 1].any()
    assert found.is_right[labels != 1].mean() > 0.7
    voted = fit_neighbours(Examples(features, labels, used), others, 3, (3, 5), seed=0)
    assert not voted.is_right[labels == 1].any()
    assert voted.by_choice.shape == (300, 2)


@dataclasses.dataclass(frozen=True)
class Part:
    tokens: np.ndarray
    norms: np.ndarray
    labels: np.ndarray
    cut: float = 10.0

    @property
    def store(self):
        return store_of(self.tokens, self.norms, self.labels, num_registers=0, cut=self.cut)

    @property
    def columns(self):
        layers = np.stack([np.ones_like(self.norms), self.norms, self.norms], axis=1)
        return norm_columns(np.pad(layers, [(0, 0), (0, 0), (1, 0)]), TokenLayout(0, (3, 4)))


def informed_parts():
    """Training and validation tokens; outliers know the class, normal patches do not."""
    parts = []
    for seed, count in ((0, 120), (1, 60)):
        generator = np.random.default_rng(seed)
        labels = generator.integers(3, size=count)
        tokens = generator.normal(size=(count, 13, 3)).astype(np.float32)
        norms = generator.uniform(1, 2, (count, 12)).astype(np.float32)
        norms[: 2 * count // 3, 4] = 20.0
        tokens[:, 1 + 4] += 6 * np.eye(3, dtype=np.float32)[labels]
        parts.append(Part(tokens, norms, labels))
    return parts


@pytest.fixture(scope="module")
def informed_stores():
    return [part.store for part in informed_parts()]


def test_outliers_that_know_the_class_are_found_to(informed_stores):
    train, val = informed_stores
    outlier = probe_kind(train, val, OUTLIER, 3, PLAN)
    normal = probe_kind(train, val, NORMAL, 3, PLAN)
    assert accuracy(outlier, 200, 0).value > 0.9
    assert accuracy(outlier, 200, 0).n == 40
    assert accuracy(normal, 200, 0).value < 0.6
    assert outlier.num_train == 80
    assert len(outlier.logistic) == len(outlier.neighbours) == 3
    change = difference(normal, outlier, 200, 0)
    assert change.n == 40
    assert change.low > 0.2
    expected = (outlier.scores() - normal.scores())[outlier.used & normal.used].mean()
    assert change.value == pytest.approx(expected, abs=1e-6)
    largest = dataclasses.replace(PLAN, without_outlier="largest")
    assert accuracy(probe_kind(train, val, OUTLIER, 3, largest), 200, 0).n == 60


def test_without_outliers_there_is_a_reason_and_no_number():
    train, val = (dataclasses.replace(x, cut=100.0).store for x in informed_parts())
    result = probe_kind(train, val, OUTLIER, 3, PLAN)
    assert result.reason.startswith("0 training images")
    assert difference(result, result, 200, 0) is None


def outliers_by(definition):
    nowhere = Path("nowhere")
    options = ProbeOptions(
        checkpoint=(nowhere,), data="x", out=nowhere, outlier=definition, bootstrap=200
    )
    train, val = informed_parts()
    return find_outliers(train.columns, val.columns, options), train, val


def test_the_cut_is_pooled_over_the_training_images():
    found, train, val = outliers_by("mean_plus_3sd")
    pooled = train.norms.astype(np.float64)
    assert found.cut == pytest.approx(pooled.mean() + 3 * pooled.std(), abs=1e-6)
    np.testing.assert_array_equal(found.val.is_outlier, val.norms > found.cut)
    assert found.share_of_images(found.val, 200, 0).value == pytest.approx(40 / 60)
    store = TokenStore(val.store._tokens, *found.val, 0, 1)
    assert store.share_beyond_kept == 0


def test_the_group_that_the_verdict_finds_comes_first_and_else_the_largest():
    for definition in ("verdict", "group"):
        found, _, val = outliers_by(definition)
        assert found.definition == "group"
        np.testing.assert_array_equal(found.val.is_outlier, val.norms > 10)


def test_controls_of_the_outlier_are_of_the_images_that_have_one(informed_stores):
    train, val = informed_stores
    np.testing.assert_array_equal(val.has(BESIDE), val.has(OUTLIER))
    neighbours, early = (val.features(kind, 0) for kind in (NEIGHBOUR, EARLY))
    tokens = informed_parts()[1].tokens[:, 1:]
    with_one = val.has(NEIGHBOUR)
    np.testing.assert_array_equal(neighbours[with_one], tokens[with_one, 5])  # right of patch 4
    np.testing.assert_array_equal(early[with_one], -tokens[with_one, 4])
    beside = probe_kind(train, val, BESIDE, 3, PLAN)
    outlier = probe_kind(train, val, OUTLIER, 3, PLAN)
    assert beside.num_train == outlier.num_train == 80
    assert len(beside.logistic) == 3


def test_the_fits_of_a_kind_are_read_as_they_were_written(informed_stores, tmp_path):
    train, val = informed_stores
    path = tmp_path / "fits" / "kind.npz"
    assert load_kind(path, OUTLIER) is None
    for plan in (PLAN, dataclasses.replace(PLAN, neighbours=())):
        written = probe_kind(train, val, OUTLIER, 3, plan)
        save_kind(path, written)
        found = load_kind(path, OUTLIER)
        assert (found.kind, found.num_train, found.reason) == (OUTLIER, written.num_train, None)
        np.testing.assert_array_equal(found.used, written.used)
        for method in ("logistic", "neighbours"):
            pairs = zip(getattr(found, method), getattr(written, method), strict=True)
            for one, other in pairs:
                for name, value in one._asdict().items():
                    np.testing.assert_array_equal(value, getattr(other, name))
    path.write_bytes(path.read_bytes()[:100])
    assert load_kind(path, OUTLIER) is None
