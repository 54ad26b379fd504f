"""Are the benchmarks' figures kept, summed up and shown as they were measured?"""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

from benchmarks import machine, measurements, summary
from benchmarks.photographs import COUNT, HEIGHT, WIDTH, photographs
from benchmarks.race import Timing, median_interval, table
from benchmarks.tables import replaced_table


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(summary.__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks", *arguments]
    variables = os.environ | environment
    return subprocess.run(
        command, cwd=root, env=variables, capture_output=True, text=True, check=False
    )


def results(images: int = 8) -> list[dict]:
    timings = {
        "timm": Timing([4.0, 4.4, 4.2], peak_mb=500.0),
        "ours": Timing([2.0, 2.0, 2.2], peak_mb=300.0),
    }
    return [table("A job", images, timings, "ours")]


def test_the_readmes_tables_are_those_of_the_newest_figures():
    text = summary.README.read_text()
    assert replaced_table(text, summary.BEGIN, summary.END, summary.block()) == text


def test_a_row_says_how_many_times_as_fast_and_how_much_memory():
    found = list(summary.rows({"results": results()}))
    assert found == [
        "| A job | timm | 1.90 images/s | 4.00 images/s | **2.00** (1.91 to 2.20) | 0.60 |"
    ]
    found = list(summary.rows({"results": results(images=1)}))
    assert found == ["| A job | timm | 4.20 s | 2.00 s | **2.00** (1.91 to 2.20) |  |"]


@pytest.mark.parametrize("count", [6, 7, 9, 15, 40])
def test_a_medians_interval_leaves_out_as_much_as_the_binomial_allows(count):
    low, high = median_interval(list(range(count, 0, -1)))
    outside = stats.binom.cdf(low - 1, count, 0.5)  # so few values lie under the median
    assert low + high == count + 1
    assert outside <= 0.025 < stats.binom.cdf(low, count, 0.5)


def test_a_job_measured_again_takes_the_place_of_its_figures_and_leaves_the_others(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(measurements, "RESULTS", tmp_path)
    old = tmp_path / f"2020-01-01-{machine.kind()}.json"
    jobs = {"lost": {"results": ["old"]}, "input": {"results": ["kept"]}}
    description = {"kind": machine.kind(), "processor": "", "versions": {}}
    old.write_text(json.dumps({"date": "2020-01-01", "jobs": jobs, "machine": description}))
    measurements.keep("training", results(), {"rounds": 3})
    path = measurements.keep("lost", results(), {"rounds": 3})
    assert path.name == f"{datetime.date.today().isoformat()}-{machine.kind()}.json"
    found = measurements.newest()[machine.kind()]
    assert found["input"]["results"] == ["kept"]
    assert found["lost"]["date"] == found["training"]["date"] == datetime.date.today().isoformat()
    assert found["lost"]["configuration"] == {"rounds": 3}
    assert found["lost"]["results"][0]["rivals"]["timm"]["seconds"] == [4.0, 4.4, 4.2]
    assert sorted(file.name for file in tmp_path.iterdir()) == [old.name, path.name]


def test_made_photographs_are_alike_in_every_run_and_unlike_one_another():
    runs = []
    for _ in range(2):
        with photographs(None) as files:
            runs.append([path.read_bytes() for path in files])
            with Image.open(files[0]) as image:
                assert image.size == (WIDTH, HEIGHT)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0]) == COUNT
    assert not files[0].exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["knitting"], "no job knitting; there are inference, input"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--device", "tpu"], "invalid choice"),
        (["--device", "gpu"], "--device gpu: nvidia-smi shows no GPU"),
        (["lost", "--photographs", "tests"], "no photographs (*.jpg, *.jpeg) in tests"),
    ],
)
def test_wrong_arguments_end_with_a_sentence_before_anything_is_measured(arguments, says):
    ended = run(*arguments, PATH="")  # no nvidia-smi on any machine
    assert ended.returncode == 2
    assert says in " ".join(ended.stderr.split())
