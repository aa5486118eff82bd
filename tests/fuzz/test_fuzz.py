"""A short run of the fuzzers: damaged files, and wrong command lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import repository

HERE = Path(__file__).parent


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(repository.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


@linux_only
def test_damaged_files_load_or_are_refused():
    out = run("run.py", "--minutes", "0.08")
    rows = {line.split(" | ")[0].strip("| "): line for line in out.splitlines()}
    for kind in ("pickle", "torch archive", "safetensors", "delta", "latent", "zip", "tar"):
        assert "| 0 |" in rows[kind], out
    assert {"run state", "JSON", "all"} <= rows.keys()


@linux_only
def test_the_fuzzer_finds_faults(tmp_path):
    """Readers that crash, hang, take memory or raise anything else are failures."""
    code = f"""
import os, sys, time
sys.path[:0] = [{str(HERE)!r}, {str(repository.ROOT)!r}]
from pathlib import Path
import corpus, mutations, run
reads = {{
    "crash": lambda path: os.abort(),
    "hang": lambda path: all(iter(lambda: True, False)),
    "sleep": lambda path: time.sleep(60),
    "memory": lambda path: bytearray(2**30),
    "other": lambda path: {{}}["key"],
    "fine": lambda path: (_ for _ in ()).throw(ValueError("refused")),
}}
kinds = {{n: corpus.Kind([b"seed"], mutations.mutate_bytes, f, "x") for n, f in reads.items()}}
corpus.kinds = lambda folder: kinds
run.SECONDS, run.PATIENCE = 0.3, 1.5
fuzzer = run.Fuzzer(Path({str(tmp_path)!r}), 0)
for name in kinds:
    print(name, run._batch(fuzzer, [(name, 0)], time.time() + 30)[0][2])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    found = dict(line.split(" ", 1) for line in out.splitlines())
    assert found["crash"] == "crash" and found["sleep"] == "hangs"
    assert found["hang"].startswith("too slow") and found["memory"].startswith("too much memory")
    assert found["other"].startswith("KeyError") and found["fine"] == "refused"


@linux_only
def test_wrong_command_lines_are_refused_in_one_line():
    out = run("invocations.py", "--sample", "150")
    assert "tried 150 command lines" in out and "0 violations" in out
