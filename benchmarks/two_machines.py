"""Two machines, one of which is lost: `python -m benchmarks.two_machines`.

Two torchrun agents, each in a network namespace of its own (as root on Linux; otherwise both on the
loopback device), train a tiny network. Once a state is written, the second agent is killed, in a
namespace with its process; then it is started again, and so is every agent that fails, as
Kubernetes does. The run must end with the same weights as one that nothing happened to. With
`--loss 2`, `tc netem` drops that many percent of the packets, where the kernel has it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sg3.files import read_tensors

SPACES, ADDRESSES = ("sg3a", "sg3b"), ("10.77.0.1", "10.77.0.2")
SETTINGS = dict(
    cfg="stylegan3-t", batch=4, aug="noaug", workers=0, z_dim=8, w_dim=8, map_depth=2, cbase=64,
    cmax=8, mbstd_group=2, grid=(3, 2), tick=0.016, snap=1, state_minutes=0, threads=1,
    device="cpu", num_layers=4, margin_size=4, gamma=1, metrics=(), resume="latest",
)  # fmt: skip
PROGRAM = """
import json, sys
from sg3.cli.train import run_training
from sg3.training import TrainConfig
settings = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()}
run_training(TrainConfig(**settings))
"""


def _ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0


def connect(loss: float) -> bool:
    """Create the two namespaces and the cable between them; False if that is not possible here."""
    made = all(_ip("netns", "add", space) for space in SPACES) and _ip(
        "link", "add", "eth0", "netns", SPACES[0], "type", "veth",
        "peer", "name", "eth0", "netns", SPACES[1],
    )  # fmt: skip
    for space, address in zip(SPACES, ADDRESSES, strict=True):
        made = made and _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        made = made and all(_ip("-n", space, "link", "set", name, "up") for name in ("lo", "eth0"))
        netem = ["tc", "-n", space, "qdisc", "add", "dev", "eth0", "root", "netem", "loss"]
        if made and loss and subprocess.run([*netem, f"{loss}%"], capture_output=True).returncode:
            print("packet loss: this kernel has no netem, so none is lost", flush=True)
    return made


def disconnect() -> None:
    """Remove the namespaces."""
    for space in SPACES:
        _ip("netns", "del", space)


def agent(index: int, spaces: bool, port: int, folder: Path, outdir: str) -> subprocess.Popen:
    """Start the agent of machine `index`."""
    host = ADDRESSES[0] if spaces else "127.0.0.1"
    settings = SETTINGS | {"data": str(folder / "images"), "outdir": outdir, "kimg": 0.08}
    command = ["ip", "netns", "exec", SPACES[index]] if spaces else []
    command += [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--max-restarts=3", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port}"),
        f"--rdzv-conf=is_host={int(index == 0)}",  # it would ask for this machine's own address
        *("--rdzv-id=two", f"--local-addr={ADDRESSES[index] if spaces else host}"),
        *(str(folder / "program.py"), json.dumps(settings)),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "SG3_DIST_TIMEOUT_MINUTES": "2"}
    env |= {"GLOO_SOCKET_IFNAME": "eth0"} if spaces else {}
    with open(f"{outdir}-{index}.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)


def train(spaces: bool, port: int, folder: Path, outdir: str, broken: bool) -> Path:
    """Train with two agents; returns the folder of the run."""
    Path(outdir).mkdir()
    agents = [agent(index, spaces, port, folder, outdir) for index in range(2)]
    try:
        if broken:
            _wait_for_state(Path(outdir), agents)
            _lose(agents[1], spaces)
            agents[1] = agent(1, spaces, port, folder, outdir)
        codes, restarts = [each.poll() for each in agents], 0
        while codes != [0, 0] and restarts < 8:
            for index, code in enumerate(codes):
                if code:  # what restarts a failed pod
                    agents[index], restarts = (
                        agent(index, spaces, port, folder, outdir),
                        restarts + 1,
                    )
            time.sleep(1)
            codes = [each.poll() for each in agents]
        print(f"{restarts} more restarts of an agent", flush=True)
    finally:
        for each in agents:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
    if any(codes):
        logs = [Path(f"{outdir}-{index}.log").read_text(errors="replace") for index in range(2)]
        sys.exit("\n".join(text[-2000:] for text in logs) + f"\nthe agents ended with {codes}")
    return next(Path(outdir).glob("0*"))


def _lose(lost: subprocess.Popen, spaces: bool) -> None:
    """Kill the second agent; in a namespace of its own also what it started: the machine is gone.

    Otherwise its process notices, saves the state and stops, and so do those of the other machine.
    """
    pids = [lost.pid]
    if spaces:
        found = subprocess.run(["ip", "netns", "pids", SPACES[1]], capture_output=True, text=True)
        pids = [int(pid) for pid in found.stdout.split()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    lost.wait()
    print(f"killed {len(pids)} processes of the second machine", flush=True)
    time.sleep(5)


def _wait_for_state(outdir: Path, agents: list[subprocess.Popen]) -> None:
    until = time.monotonic() + 200
    while not list(outdir.glob("0*/training-state-*.pt")):
        if time.monotonic() > until or any(each.poll() is not None for each in agents):
            sys.exit(f"no state was written; see {outdir}-0.log")
        time.sleep(0.1)


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", type=float, default=2, help="percent of the packets")
    parser.add_argument("--loopback", action="store_true", help="no network namespaces")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (folder / "images").mkdir()
    random = np.random.RandomState(0)
    for index in range(10):
        pixels = random.randint(0, 255, [16, 16, 3], np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    spaces = os.name == "posix" and shutil.which("ip") is not None and not args.loopback
    spaces = spaces and connect(args.loss)
    print("two network namespaces" if spaces else "both on the loopback device", flush=True)
    try:
        runs = [
            train(spaces, 29511 + broken, folder, str(folder / f"run{broken}"), bool(broken))
            for broken in (0, 1)
        ]
    finally:
        if spaces:
            disconnect()
    last = [sorted(run.glob("network-*.safetensors"))[-1] for run in runs]
    whole, resumed = (read_tensors(path)[0] for path in last)
    assert last[0].name == last[1].name and whole.keys() == resumed.keys()
    different = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    lines = (runs[1] / "log.txt").read_text(encoding="utf-8").splitlines()
    print(f"{len(whole)} tensors of {last[0].name}, {len(different)} of them different")
    print("resumed:", next((line for line in lines if "resuming" in line), "never"))
    shutil.rmtree(folder)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
