"""The fuzzer of our readers: mutated files must load or be refused, in time and memory.

    PYTHONPATH=. python tests/fuzz/run.py --minutes 60
    PYTHONPATH=. python tests/fuzz/run.py --one pickle 1234   # repeat one, with its traceback

A file passes if it loads, or raises ValueError or OSError, of which the program prints one line.
Everything else fails: other exceptions, a crash, more than 5 s of CPU, or more than 4 × size + 200
MB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import corpus
import torch

from sg3.cli.main import one_line

SECONDS, MEMORY = 5, 200 << 20
PATIENCE = 30.0  # seconds of silence after which a worker hangs
MAX_MESSAGE = 3000


class TooSlow(BaseException):
    """More CPU time than allowed."""


def _too_slow(*_: object) -> None:
    raise TooSlow


class Fuzzer:
    """All kinds, the temporary folder, and how one file is tried."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        os.environ["SG3_MODELS"] = str(folder / "run.json")
        self.kinds = corpus.kinds(folder)

    def content(self, kind: str, index: int) -> bytes:
        """Return the mutated file number `index`."""
        random = Random(f"{self.seed} {kind} {index}")
        entry = self.kinds[kind]
        return entry.mutate(random, random.choice(entry.seeds), entry.seeds)

    def read(self, kind: str, index: int) -> None:
        """Write the file and read it; raises what its reader raises."""
        data = self.content(kind, index)
        path = self.folder / self.kinds[kind].name
        path.write_bytes(data)
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (now + 4 * len(data) + MEMORY, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            self.kinds[kind].read(path)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

    def try_one(self, kind: str, index: int) -> str:
        """Return "loaded", "refused", or what is wrong."""
        try:
            self.read(kind, index)
        except (ValueError, OSError) as error:
            text = one_line(error)
            if "MemoryError" in text:
                return "too much memory"
            fine = text.isprintable() and len(text) <= MAX_MESSAGE
            return "refused" if fine else f"odd message: {ascii(text)[:200]}"
        except TooSlow as error:
            return f"too slow at {_place(error)}"
        except MemoryError as error:
            return f"too much memory at {_place(error)}"
        except Exception as error:
            return f"{type(error).__name__} at {_place(error)}: {ascii(str(error))[:150]}"
        return "loaded"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if "site-packages" not in f.filename and "tests/fuzz" not in f.filename
    ]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in ours[::-1][:3])


def _work(fuzzer: Fuzzer, jobs: list[tuple[str, int]], pipe: int) -> None:
    """The child process: try all jobs and report each."""
    signal.signal(signal.SIGVTALRM, _too_slow)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "w") as null, open(pipe, "w") as out:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        for kind, index in jobs:
            print(json.dumps([kind, index, fuzzer.try_one(kind, index)]), file=out, flush=True)
    os._exit(0)


def _batch(fuzzer: Fuzzer, jobs: list[tuple[str, int]], end: float) -> list[tuple[str, int, str]]:
    """Try jobs in a child process until `end`; a crash or hang counts for the job under way."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _work(fuzzer, jobs, send)
    os.close(send)
    found: list[tuple[str, int, str]] = []
    with open(receive) as lines:
        while len(found) < len(jobs) and time.time() < end:
            if not select.select([lines], [], [], PATIENCE)[0]:
                found.append((*jobs[len(found)], "hangs"))
                break
            line = lines.readline()
            if not line:
                found.append((*jobs[len(found)], "crash"))
                break
            kind, index, outcome = json.loads(line)
            found.append((kind, index, outcome))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return found


def fuzz(fuzzer: Fuzzer, kinds: list[str], seconds: float, start: int) -> dict[str, Counter]:
    """Try files of all kinds in turn for `seconds`; print and count what fails."""
    counts: dict[str, Counter] = {kind: Counter() for kind in kinds}
    next_index, seen, end = dict.fromkeys(kinds, start), Counter(), time.time() + seconds
    while time.time() < end:
        jobs = [(kind, next_index[kind] + i) for i in range(50) for kind in kinds]
        for kind, index, outcome in _batch(fuzzer, jobs, end):
            next_index[kind] = index + 1
            counts[kind]["tried"] += 1
            counts[kind][outcome if outcome in ("loaded", "refused") else "failed"] += 1
            if outcome not in ("loaded", "refused"):
                seen[kind, outcome[:90]] += 1
                if seen[kind, outcome[:90]] == 1:
                    print(f"{kind} {index}: {outcome}", flush=True)
    return counts


def table(counts: dict[str, Counter]) -> str:
    """Return the counts as a Markdown table."""
    rows = [[kind, *(f"{c[n]:,}" for n in ("tried", "loaded", "refused", "failed"))]
            for kind, c in counts.items()]  # fmt: skip
    sums = [
        f"{sum(c[n] for c in counts.values()):,}" for n in ("tried", "loaded", "refused", "failed")
    ]
    head = ["kind", "tried", "loaded", "refused", "failed"]
    lines = [head, ["---", *["---:"] * 4], *rows, ["all", *sums]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1, help="how long (default 1)")
    parser.add_argument("--kinds", default="", help="kinds, separated by commas (default all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all mutations (default 0)")
    parser.add_argument("--start", type=int, default=0, help="number of the first file (default 0)")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help="repeat one file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="sg3-fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder), args.seed)
        if args.one:
            signal.signal(signal.SIGVTALRM, _too_slow)
            fuzzer.read(args.one[0], int(args.one[1]))
            return 0
        kinds = args.kinds.split(",") if args.kinds else list(fuzzer.kinds)
        counts = fuzz(fuzzer, kinds, args.minutes * 60, args.start)
    print(table(counts))
    return 1 if any(c["failed"] for c in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
