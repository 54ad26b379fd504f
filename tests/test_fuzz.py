"""Do the readers stand damaged files of every kind? `python -m benchmarks.fuzz` tries more."""

import pytest

COUNT = 40


def test_damaged_files_are_refused_with_a_sentence_or_read_correctly(tmp_path):
    pytest.importorskip("torch", reason="writes files as torch does; the extra torch is missing")
    pytest.importorskip("array_record", reason="the extra tfds is not installed")
    from benchmarks.fuzz import fuzz

    rows, failures = fuzz(tmp_path, COUNT)
    assert not failures
    assert sum(sum(row["verdicts"].values()) for row in rows) == COUNT
    # Damage is done: most files are refused, and no reader refuses its whole example.
    refused = sum(row["verdicts"].get("refused", 0) for row in rows)
    assert 0.3 * COUNT < refused < 0.95 * COUNT
