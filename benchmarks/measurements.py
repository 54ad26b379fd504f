"""The files that keep what was measured: one for each day and kind of machine."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"


def keep(job: str, results: list[dict[str, Any]], configuration: Mapping[str, Any]) -> Path:
    """Adds a job's figures to today's file of this kind of machine, in place of older ones."""
    today = datetime.date.today().isoformat()
    path = RESULTS / f"{today}-{machine.kind()}.json"
    content: dict[str, Any] = {"date": today, "jobs": {}}
    if path.exists():
        content = json.loads(path.read_text())
    content["machine"] = machine.description()
    content["jobs"][job] = {"configuration": dict(configuration), "results": results}
    RESULTS.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    return partial.replace(path)


def newest() -> dict[str, dict[str, dict[str, Any]]]:
    """By kind of machine and by job: the newest figures, with `date` and `machine`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("????-??-??-*.json")):
        content = json.loads(path.read_text())
        jobs = found.setdefault(content["machine"]["kind"], {})
        for job, figures in content["jobs"].items():
            jobs[job] = {"date": content["date"], "machine": content["machine"], **figures}
    return found
