"""How do results reach the disk: whole or not at all, and never over those of another question?

A result folder holds

- `results.json`, written last:
    format         2
    analysis       "norms", "attention", ...
    about          heading, text, what its verdicts are about, which figures show single images
    configuration  every option the numbers depend on, checksums of weights and images
    data           name, split, num_images, skipped (messages of the images left out)
    measured       by table: title, axes, and what its quantities are
    lead           key and title of the numbers to lead with
    models         one entry per model: label, checkpoint, source (with the file's SHA-256 where it
                   was converted), model configuration, preprocessing, perhaps a verdict, `numbers`
                   by key ("table/place/.../quantity"), remarks, and what else was found
    comparisons    differences between models by key, paired on the same images
    figures        file (PNG), vector (SVG), title, caption
    tables         file (CSV), title
    versions       of the libraries
  Every number is {"value": x, "n": images, "interval": [low, high]}: a 95 % interval from
  resampling images, or null where resampling says nothing. A share is in [0, 1].
- the figures and tables it names, and arrays (`.npz`).
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from regvit_jax.analysis.engine.identity import binding
from regvit_jax.analysis.engine.placing import ARRIVING, Workplace, settle
from regvit_jax.analysis.engine.results_schema import check_results
from regvit_jax.analysis.spoken import shown
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.errors import InputError
from regvit_jax.strict_json import expect, read_json

FORMAT = 2
RESULTS_FILE = "results.json"
COMPARISONS_TABLE = {"file": "comparisons.csv", "title": "Paired differences between models"}


@dataclasses.dataclass(frozen=True)
class FigureFile:
    """One figure of a result folder."""

    name: str
    title: str
    caption: str

    def to_json(self) -> dict[str, str]:
        """Its entry in results.json."""
        return {
            "file": f"{self.name}.png",
            "vector": f"{self.name}.svg",
            "title": self.title,
            "caption": self.caption,
        }


class ResultFolder:
    """Collects files beside the final folder, and moves them there when all is done.

    Args:
      out: The folder that `--out` names.
      analysis: Which question this is.
      configuration: What the results depend on.
      overwrite: Replace results of another configuration.

    Raises:
      InputError: If `out` holds other results, or files that are no results.
    """

    def __init__(
        self, out: Path, analysis: str, configuration: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        self.out, self.analysis = out.resolve(), analysis
        self.configuration = plain(configuration)
        settle(self.out, RESULTS_FILE)
        _refuse_other_results(self.out, analysis, self.configuration, overwrite)
        self.partial = self.out  # until it is entered
        self._workplace: Workplace | None = None

    def __enter__(self) -> "ResultFolder":
        self._workplace = Workplace(self.out)
        self.partial = self._workplace.folder
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._workplace is not None:
            self._workplace.give_up()

    def path(self, name: str) -> Path:
        """Where a file of the results is to be written."""
        return self.partial / name

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a CSV table; the first row names the columns."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
        self.path(name).write_text(text.getvalue(), encoding="utf-8")

    def write_comparisons(self, comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Writes a row for every difference; its entry of `tables`, if there is any."""
        rows = [
            {"from": pair["from"], "to": pair["to"], "quantity": name, "n": difference.n}
            | estimate_columns("difference", difference)
            for pair in comparisons
            for name, difference in pair["differences"].items()
        ]
        if not rows:
            return []
        self.write_table(COMPARISONS_TABLE["file"], rows)
        return [COMPARISONS_TABLE]

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes arrays as a compressed .npz file."""
        with self.path(name).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def write_document(self, name: str, document: Any) -> None:
        """Writes a JSON file for other programs to read."""
        text = json.dumps(plain(document), indent=1, allow_nan=False)
        self.path(name).write_text(text + "\n", encoding="utf-8")

    def finish(self, results: Mapping[str, Any]) -> None:
        """Writes results.json and moves everything to its place, results.json last."""
        head = {
            "format": FORMAT,
            "analysis": self.analysis,
            "configuration": self.configuration,
        }
        files = sorted(path.name for path in self.partial.iterdir())
        text = json.dumps(plain(head | dict(results) | {"files": files}), indent=1, allow_nan=False)
        self.path(RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
        assert self._workplace is not None
        self._workplace.put(_old_files(self.out), RESULTS_FILE)


def read_results(folder: Path) -> dict[str, Any]:
    """The results.json of a result folder.

    Raises:
      InputError: If the folder has none, or one of another version.
    """
    path = folder / RESULTS_FILE
    if (folder / ARRIVING).is_dir():
        raise InputError(
            f"{folder} holds results that are being replaced. If no command is running there, one "
            "was killed: run the same analysis again, which first ends the move."
        )
    try:
        results = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a result folder: it has no {RESULTS_FILE}. Expected what "
            "`regvit-analyze norms --out` or another analysis wrote."
        ) from None
    except InputError as error:
        raise InputError(
            f"{path} is damaged: {error} Run the analysis again with --overwrite."
        ) from error
    if results.get("format") != FORMAT:
        raise InputError(
            f"{path} is not of format {FORMAT}, which this version reads. Run the analysis again "
            "with --overwrite."
        )
    expect(results.get("analysis"), str, f"{path}: analysis")
    expect(results.get("configuration"), dict, f"{path}: configuration")
    for i, name in enumerate(expect(results.get("files", []), list, f"{path}: files")):
        expect(name, str, f"{path}: files[{i}]")
    return results


def read_complete(folder: Path) -> dict[str, Any]:
    """The results.json of a result folder, with all that a page is made of.

    Raises:
      InputError: If the folder has none, or a field is missing or of another type.
    """
    results = read_results(folder)
    check_results(results, str(folder / RESULTS_FILE))
    return results


def has_results(out: Path, analysis: str, configuration: Mapping[str, Any]) -> bool:
    """Whether a folder holds the results of this analysis and configuration.

    Args:
      out: The folder.
      analysis: Which question this is.
      configuration: What the results depend on.

    Raises:
      InputError: If it holds results that cannot be read.
    """
    settle(out, RESULTS_FILE)
    path = out / RESULTS_FILE
    if not path.is_file():
        return False
    found = read_results(out)
    same = binding(found["configuration"]) == binding(plain(configuration))
    return same and found["analysis"] == analysis


def plain(value: Any) -> Any:
    """The value as JSON has it: no NumPy, no tuples, and null where a float is not finite."""
    if isinstance(value, Estimate):
        return plain(value.to_json())
    if isinstance(value, Mapping):
        return {plain(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Path | str):
        return shown(str(value), keep="\n\t")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def comparison(first: str, second: str, differences: Mapping[str, Estimate]) -> dict[str, Any]:
    """An entry of `comparisons`: second minus first, on the same images."""
    return {"from": first, "to": second, "paired": True, "differences": dict(differences)}


def estimate_columns(name: str, estimate: Estimate) -> dict[str, Any]:
    """A number's three columns in a table."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    return f"{value:.7g}" if isinstance(value, float) else value


def _refuse_other_results(out: Path, analysis: str, configuration, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder.")
    if not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir()):
        return
    if not (out / RESULTS_FILE).is_file():
        raise InputError(f"{out} has files in it that are no results. Choose another --out.")
    if overwrite:
        return
    found = read_results(out)
    if found["analysis"] != analysis:
        raise InputError(
            f"{out} holds results of `{found['analysis']}`. Choose another --out, or replace them "
            "with --overwrite."
        )
    before, configuration = binding(found["configuration"]), binding(configuration)
    changed = sorted(
        key
        for key in before.keys() | configuration.keys()
        if before.get(key) != configuration.get(key)
    )
    if changed:
        differences = "; ".join(
            f"{key}: {before.get(key)!r} there, {configuration.get(key)!r} now" for key in changed
        )
        raise InputError(
            f"{out} holds results of another configuration ({differences}). Choose another --out, "
            "or replace them with --overwrite."
        )


def _old_files(out: Path) -> list[str]:
    """The files that the results there say are theirs."""
    if not (out / RESULTS_FILE).is_file():
        return []
    try:
        files = read_results(out).get("files", [])
    except InputError:  # damaged, and the user asked to overwrite it: nothing is known to be ours
        return []
    return [Path(name).name for name in files]
