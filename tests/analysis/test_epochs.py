"""Are the stages of a run found and put in order?"""

import dataclasses
from pathlib import Path

from regvit_jax.analysis.engine.epochs import training_runs
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.checkpoint import CheckpointInfo
from regvit_jax.config import ViTConfig
from regvit_jax.preprocess import Preprocess

CONFIG = ViTConfig(embed_dim=24, depth=3, num_heads=3)


def subject(path, num_registers=0, metrics=None, source=None):
    config = dataclasses.replace(CONFIG, num_registers=num_registers)
    info = CheckpointInfo(config, metrics=metrics or {}, source=source or {})
    return Subject(Path(path).name, Path(path), info, Preprocess())


def test_checkpoints_of_a_run_are_put_in_order():
    subjects = [
        subject("/runs/a/epochs/9", metrics={"step": 100, "epoch": 9}),
        subject("/runs/a/model", metrics={"step": 200}),
        subject("/runs/a/epochs/0", metrics={"step": 10, "epoch": 0}),
        subject("/runs/b/model", metrics={"step": 200}),
    ]
    (run,) = training_runs(subjects)
    assert run.label == "a (0 registers)"
    assert (run.unit, run.places, run.members) == ("step", [10, 100, 200], [2, 0, 1])


def test_epochs_of_converted_files_count_from_one():
    subjects = [subject(f"/seed/{e}", 4, source={"epoch": e}) for e in (799, 0, 19)]
    (run,) = training_runs(subjects)
    assert (run.unit, run.places, run.members) == ("epoch", [1, 20, 800], [1, 2, 0])


def test_models_without_a_stage_of_other_configurations_and_twins_are_no_runs():
    stages = [subject(f"/a/{i}", i, metrics={"step": i}) for i in (1, 2)]
    assert training_runs(stages) == []
    assert training_runs([subject("/a/1"), subject("/a/2")]) == []
    one = subject("/a/1", metrics={"step": 1})
    assert training_runs([one, one.twin()]) == []
    assert training_runs([one, subject("/a/2", metrics={"step": 1})]) == []
