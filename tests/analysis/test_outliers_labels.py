"""Do all labels come from the layer of the verdict, and say so?"""

import numpy as np
import pytest

from regvit_jax.analysis.outliers.labels import GROUP, Marked, by_one_cut, find_labels
from regvit_jax.analysis.outliers.planted import SHARE, judge_planted, places
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.errors import InputError
from regvit_jax.tokens import TokenLayout
from tests.analysis.conftest import label_options, norm_columns

GRID, BOOTSTRAP = (7, 8), Bootstrap(400, 100)


def streams(times, num_registers=0, seed=0, share=0.03):
    """Norms whose outliers are so many times longer in each layer, and which patches these are."""
    generator = np.random.default_rng(seed)
    layout = TokenLayout(num_registers, GRID)
    norms = np.exp(generator.normal(2, 0.15, (400, len(times) + 1, layout.num_tokens)))
    is_outlier = generator.random((400, 56)) < share
    for layer, factor in enumerate(times):
        norms[:, layer, layout.patches][is_outlier] *= factor
    return norm_columns(norms.astype(np.float32), layout), is_outlier


def test_labels_are_those_of_the_layer_where_outliers_are_furthest_out():
    norms, is_outlier = streams([1, 1, 6, 4, 1])
    labels = find_labels(norms, BOOTSTRAP, label_options())
    assert (labels.layer, labels.tensor, labels.where) == (2, "strongest", "after block 1")
    assert labels.led.definition == GROUP
    np.testing.assert_array_equal(labels.led.is_outlier, is_outlier)
    assert "after block 1" in labels.remark
    assert labels.facts["outlier_layer"] == 2
    # The largest 2 % of that layer are outliers, too: 3 % are.
    assert is_outlier[labels.by["quantile_98"].is_outlier].all()


def test_the_last_block_or_any_other_can_be_asked_for():
    norms, is_outlier = streams([1, 1, 6, 4, 1])
    last = find_labels(norms, BOOTSTRAP, label_options("last"))
    assert (last.layer, last.tensor, last.led.definition) == (4, "last", "quantile_98")
    assert "found in other layers only" in last.remark
    other = find_labels(norms, BOOTSTRAP, label_options("2"))
    assert (other.layer, other.led.definition) == (3, GROUP)
    np.testing.assert_array_equal(other.led.is_outlier, is_outlier)
    assert find_labels(norms, BOOTSTRAP, label_options("-1")).layer == 4
    with pytest.raises(InputError, match="--outlier-layer is verdict, last or the number"):
        label_options("middle")
    with pytest.raises(InputError, match="No such blocks"):
        find_labels(norms, BOOTSTRAP, label_options("4"))


def test_without_outliers_the_last_block_tells_the_largest_and_says_so():
    norms, _ = streams([1, 1, 1])
    labels = find_labels(norms, BOOTSTRAP, label_options())
    assert (labels.layer, labels.led.definition, labels.group) == (2, "quantile_98", None)
    assert "No separate group is found" in labels.remark
    assert labels.led.share.low is None  # fixed by construction


def test_the_studys_protocol_reads_the_last_block_as_before():
    norms, _ = streams([1, 6, 1])
    labels = find_labels(norms, BOOTSTRAP, label_options(protocol="study"))
    assert labels.layer == 2
    assert GROUP not in labels.by


def test_two_models_are_compared_by_the_cut_of_the_one_without_registers():
    (plain, first), (other, second) = streams([1, 5, 5]), streams([1, 1, 1.7], 4, seed=1)
    marked = [Marked(x, find_labels(x, BOOTSTRAP, label_options())) for x in (plain, other)]
    for pair in (marked, marked[::-1]):
        one, two = by_one_cut(*pair)
        masks = {id(pair[0]): one, id(pair[1]): two}
        np.testing.assert_array_equal(masks[id(marked[0])], first)
        assert not masks[id(marked[1])][second].mean() > 0.5  # as rare, but shorter
    assert by_one_cut(marked[1], marked[1]) is None or marked[1].labels.group is not None


@pytest.mark.parametrize(("times", "answer"), [(2.5, "found"), (1.1, "not found")])
def test_the_control_says_whether_planted_norms_are_seen(times, answer):
    generator = np.random.default_rng(2)
    layout = TokenLayout(0, (14, 14))
    norms = np.exp(generator.normal(2, 0.15, (64, 6, layout.num_tokens)))
    here = np.array(places(layout.grid, SHARE, 0))
    norms[:, 3:5, 1 + here] = times * np.median(norms[:, 3:5, 1:], axis=2)[..., None]
    own = np.zeros((64, 196), bool)
    own[:, 5] = True  # the model's own outliers are not what was planted
    norms[:, 3:5, 1 + 5] *= 9
    control = judge_planted(norm_columns(norms.astype(np.float32), layout), 1, own)
    assert control.answer == answer
    assert (control.seen > 0.99) == (answer == "found")
    assert control.share == pytest.approx(2 / 196)
    assert answer in control.sentence
