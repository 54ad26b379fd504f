"""Do metrics survive kills, damage and another start?"""

import json

from regvit_jax.train.metrics import Metrics

TOP1 = {"share": 0.5, "low": 0.4, "high": 0.6, "n": 9}


def evaluation(step, share=0.5):
    return {"step": step, "data": "val", "top1": TOP1 | {"share": share}}


def written(tmp_path, *lines, end=b""):
    raw = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in raw) + end)
    return Metrics(path, tmp_path / "events")


def test_later_lines_and_a_cut_one_are_dropped_the_evaluation_of_the_step_stays(tmp_path):
    kept = [{"step": 1}, {"step": 2}, evaluation(2), {"step": 2, "changed": ["seed: 0, 1"]}]
    metrics = written(tmp_path, *kept, {"step": 3}, end=b'{"step": 1, "lo')
    metrics.forget_after(2)
    assert metrics.lines() == kept
    assert not list(tmp_path.glob("*.damaged"))


def test_garbage_is_moved_aside_and_named_nothing_else_is_lost(tmp_path, caplog):
    garbage = [b"\xff\xfe", b"[1]", b'{"step": "two"}', b'{"a":' * 5000, b'{"step": ' + b"9" * 5000]
    metrics = written(tmp_path, {"step": 1}, *garbage, {"step": 2})
    metrics.forget_after(2)
    assert metrics.lines() == [{"step": 1}, {"step": 2}]
    aside = (tmp_path / "metrics.jsonl.damaged").read_bytes()
    assert aside == b"".join(line + b"\n" for line in garbage)
    assert "5 lines" in caplog.text


def test_an_evaluation_counts_until_the_configuration_changes(tmp_path):
    metrics = written(tmp_path, evaluation(2), evaluation(4, 0.7), {"step": 4, "adjusted": []})
    assert metrics.evaluation_at(4) == evaluation(4, 0.7)
    assert metrics.best_share() == 0.7
    metrics = written(tmp_path, evaluation(4), {"step": 4, "changed": ["data.data: a, b"]})
    assert metrics.evaluation_at(4) is None
    assert metrics.best_share() is None
