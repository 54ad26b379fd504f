"""Does an option that is given twice add its values or end the command, never replace unsaid?"""

import pytest

from regvit_jax.errors import InputError
from regvit_jax.repeated import gathered


def test_values_are_gathered():
    arguments = ["x", "--checkpoint", "a", "--data", "d", "--checkpoint=b", "--", "c"]
    expected = ["x", "--checkpoint", "a", "b", "--data", "d", "--", "c"]
    assert gathered(arguments, {"--checkpoint"}) == expected


def test_values_of_one_text_become_its_lines():
    arguments = ["x", "--data", "a.jpg", "b c.jpg", "--out", "o", "--data=*.png"]
    expected = ["x", "--data", "a.jpg\nb c.jpg\n*.png", "--out", "o"]
    assert gathered(arguments, {"--data"}, {"--data"}) == expected
    assert gathered(["--data"], {"--data"}, {"--data"}) == ["--data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["norms", "--data", "a", "--data", "b"], "--data is given twice"),
        (["norms", "--num-images=1", "--num_images", "2"], "--num-images is given twice"),
        (["norms", "--no-twin", "--no-twin"], "--no-twin is given twice"),
        (["run", "--flip", "--no-flip"], "--flip and --no-flip contradict each other"),
    ],
)
def test_a_second_value_where_one_counts_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        gathered(arguments, {"--checkpoint"})
