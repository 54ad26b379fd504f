"""Does the README say what the benchmarks measured?"""

import pytest

from benchmarks import summary


def test_the_readmes_table_is_that_of_the_newest_figures():
    text = summary.README.read_text()
    assert summary.replaced(text, summary.block()) == text


def test_a_row_says_how_many_times_as_fast_and_how_much_memory():
    def rival(seconds: float, ratio: float, peak: float) -> dict[str, float]:
        return {
            "median_seconds": seconds,
            "images_per_second": 8 / seconds,
            "ours_is_x_times_as_fast": ratio,
            "peak_mb": peak,
        }

    rivals = {"timm": rival(4.0, 2.0, 500.0), "ours": rival(2.0, 1.0, 300.0)}
    found = list(summary.rows({"results": [{"job": "A job", "images": 8, "rivals": rivals}]}))
    assert found == ["| A job | timm | 2.00 images/s | 4.00 images/s | 2.00 | 0.60 |"]
    found = list(summary.rows({"results": [{"job": "A job", "images": 1, "rivals": rivals}]}))
    assert found == ["| A job | timm | 4.00 s | 2.00 s | 2.00 |  |"]
    with pytest.raises(StopIteration):
        next(summary.rows({"results": []}))
