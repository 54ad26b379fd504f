"""What do damaged files do to the readers? Each must refuse with a sentence, or read correctly.

`python -m benchmarks.fuzz --count 1000` makes a valid file for every reader, damages copies of it
(cut, bytes inserted, removed, zeroed, flipped, and for JSON values of other kinds), and reads them
in a process that may compute for 10 s and take 1 GB for each. What counts as a failure:

- any other exception than `InputError` and `OSError`, a crash, a hang, too much memory;
- a file with bytes inserted or removed that loads with other values, where the format can tell.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from benchmarks import fuzz_readers, measurements
from regvit_jax.errors import InputError

SECONDS, MEGABYTES = 10.0, 1000
BUSY = 6
"""So much longer than the seconds that its cores compute may a file take on a loaded machine."""
PROCESSES = multiprocessing.get_context("spawn")
INTEGER_DIGITS = 5000
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**9, 10**30, float("nan"), float("inf"), "", "x", "../../x"),
    *([], {}, [[]], {"a": 1}, "\udcff", "9" * 400, [1, "a", None], {"value": "x"}, -(10**20)),
)


class Case(NamedTuple):
    """One damaged file."""

    reader: str
    file: str
    """Relative to the reader's folder."""
    seed: int


class Verdict(NamedTuple):
    """What became of it."""

    word: str
    """"refused", "equal", "read", or what went wrong."""
    detail: str = ""


def main() -> None:
    """Damages, reads, prints and keeps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="damaged files over all readers")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--only", nargs="*", default=[], help="readers")
    parser.add_argument("--keep", action="store_true", help="add the figures to the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        rows, failures = fuzz(Path(folder), options.count, options.seed, options.only)
    for row in rows:
        print(f"{row['reader']:24}", *(f"{k} {v}" for k, v in row["verdicts"].items()), sep="  ")
    for case, verdict in failures:
        print(f"FAIL {case.reader}/{case.file} seed {case.seed}: {verdict.word}. {verdict.detail}")
    print(f"{sum(sum(r['verdicts'].values()) for r in rows)} files, {len(failures)} failures")
    if options.keep:
        measurements.keep("fuzz", rows, {"seed": options.seed, "count": options.count})
    raise SystemExit(bool(failures))


def fuzz(
    folder: Path, count: int, seed: int = 0, only: list[str] | None = None
) -> tuple[list[dict[str, Any]], list[tuple[Case, Verdict]]]:
    """A row for each reader, and the failures.

    Args:
      folder: Where files are made.
      count: Damaged files over all readers.
      seed: Of the damage.
      only: Names of readers; all unless given.
    """
    names = only or list(fuzz_readers.READERS)
    originals = folder / "whole"
    files = {name: fuzz_readers.READERS[name].make(originals / name) for name in names}
    rows, failures = [], []
    worker = _Worker(folder)
    for place, name in enumerate(names):
        verdicts: Counter[str] = Counter()
        for i in range(count // len(names) + (place < count % len(names))):
            case = Case(name, files[name][i % len(files[name])], seed * 10**6 + i)
            verdict = worker.judge(case)
            verdicts[verdict.word] += 1
            if verdict.word not in ("refused", "equal", "read"):
                failures.append((case, verdict))
        rows.append({"reader": name, "verdicts": dict(sorted(verdicts.items()))})
    worker.stop()
    return rows, failures


class _Worker:
    """A process that reads files one after the other; a new one after a crash or a hang."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def judge(self, case: Case) -> Verdict:
        self._pipe.send(case)
        if not self._pipe.poll(BUSY * SECONDS):
            self.stop()
            self._start()
            return Verdict("hang", f"more than {BUSY * SECONDS} s")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            return Verdict("crash", f"exit code {code}")

    def stop(self) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_serve, args=(theirs, self._folder), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # everything is imported


def _serve(pipe: Any, folder: Path) -> None:
    """Reads the cases that come, until the other end is closed."""
    wholes: dict[str, Any] = {}
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while True:
            case: Case = pipe.recv()
            reader = fuzz_readers.READERS[case.reader]
            if case.reader not in wholes:
                wholes[case.reader] = _quietly(reader.read, folder / "whole" / case.reader)
            pipe.send(_judge(reader, case, folder, wholes[case.reader]))


def _judge(reader: fuzz_readers.Reader, case: Case, folder: Path, whole: Any) -> Verdict:
    place = folder / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / "whole" / case.reader, place)
    kind = _damage(place / case.file, case.seed)
    before, start = _peak(), time.process_time()
    try:
        found = _quietly(reader.read, place)
        word = "equal" if found == whole else "read"
        if word == "read" and kind in ("inserted", "removed") and reader.notices_shifts:
            word = "silent"
        detail = kind
    except InputError as error:
        word, detail = "refused", str(error)[:300]
        if len(str(error)) > 10_000:
            word, detail = "a message without end", f"{len(str(error))} letters"
    except OSError as error:
        word, detail = "refused", str(error)[:300]
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        word, detail = "exception", f"{type(error).__name__} at {where}: {str(error)[:200]}"
    if time.process_time() - start > SECONDS:
        return Verdict("slow", f"{time.process_time() - start:.1f} s, {kind}")
    if _peak() - before > MEGABYTES:
        return Verdict("memory", f"{_peak() - before:.0f} MB, {kind}")
    return Verdict(word, detail)


def _quietly(read: Callable[[Path], Any], folder: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return read(folder)


def _peak() -> float:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _damage(path: Path, seed: int) -> str:
    """Damages a file; the word for what was done."""
    generator = np.random.default_rng(seed)
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and generator.random() < 0.7:
        path.write_bytes(_odd_json(data, generator))
        return "odd"
    kind = ("cut", "removed", "inserted", "zeroed", "flipped", "doubled")[generator.integers(6)]
    place = int(generator.integers(max(len(data), 1)))
    size = int(generator.integers(1, 100))
    if kind == "cut":
        data = data[:place]
    elif kind == "removed":
        data = data[:place] + data[place + size :]
    elif kind == "inserted":
        data = data[:place] + generator.bytes(size) + data[place:]
    elif kind == "zeroed":
        data = data[:place] + bytes(min(size, len(data) - place)) + data[place + size :]
    elif kind == "doubled":
        data = data[:place] + data[max(place - size, 0) :]
        kind = "inserted"
    else:
        changed = bytearray(data)
        for _ in range(int(generator.integers(1, 8))):
            changed[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
        data = bytes(changed)
    path.write_bytes(data)
    return kind


def _odd_json(data: bytes, generator: np.random.Generator) -> bytes:
    """A JSON text with one value of another kind, missing, or beyond all bounds."""
    lines = data.splitlines() if data.count(b"\n{") else [data]
    line = int(generator.integers(len(lines)))
    values = json.loads(lines[line])
    holder, key = values, None
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            break
        key = keys[int(generator.integers(len(keys)))]
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or generator.random() < 0.3:
            break
        holder = inner
    how = int(generator.integers(8))
    if key is None or how == 0:
        return (b"[" * 100_000, b"\xff\xfe" + data, b'{"a":' * 3000, b"")[generator.integers(4)]
    if how == 1:
        del holder[key]
    elif how == 2:
        holder[key] = "@huge@"
    else:
        holder[key] = ODD_VALUES[int(generator.integers(len(ODD_VALUES)))]
    text = json.dumps(values).encode(errors="surrogateescape")
    lines[line] = text.replace(b'"@huge@"', b"9" * INTEGER_DIGITS)
    return b"\n".join(lines)


if __name__ == "__main__":
    main()
