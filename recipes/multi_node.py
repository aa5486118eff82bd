"""A run on several machines: FFHQ-U at 1024×1024 on 2 × 8 GPUs.

Commands, the same on every machine; the first machine is the rendezvous:
  export SG3_DIST_TIMEOUT_MINUTES=10
  torchrun --nnodes=2 --nproc-per-node=8 --max-restarts=3 --rdzv-backend=c10d \\
    --rdzv-endpoint=machine0:29400 --rdzv-id=ffhqu -m recipes.multi_node \\
    --data /shared/ffhqu-1024.zip --outdir /shared/runs --resume latest
To print the settings on one machine: python -m recipes.multi_node --data … --outdir … --dry-run
For SLURM, write a batch script and submit it:
  python -c "from recipes.multi_node import slurm_script as s; \\
    print(s('/shared/ffhqu-1024.zip', '/shared/runs', nodes=2))" > train.slurm
  sbatch --dependency=singleton train.slurm

For Kubernetes, one pod per machine, all of which restart elastically:
  python -c "from recipes.multi_node import kubernetes_manifest as k; \\
    print(k('s3://bucket/ffhqu/shards-{000..063}.tar', '/runs', image='registry/sg3:1', \\
      claim='runs', nodes=2))" | kubectl apply -f -

Requirements and behaviour:
- --outdir is a shared folder with the same path on all machines: rank 0 writes there, and every
  process reads the training state to resume. --data may be a local copy at the same path, or
  shards in object storage: https://, or s3://, gs:// … whose fsspec package is installed (s3fs …).
- Port 29400 of the first machine must be open to the others, and NCCL's ports between all of them.
  If NCCL uses the wrong network interface: export NCCL_SOCKET_IFNAME=eth0, or what `ip link` shows.
- When a process dies, the others stop within the timeout, torchrun restarts all of them (up to
  --max-restarts times), and they resume from the last training state, which is at most --set
  state_minutes=15 and a tick old. All machines must reach the rendezvous again.
- When a machine is lost, or told to stop alone, the processes of the others save, exit with an
  error and wait in the rendezvous until it is back, or for 10 minutes; then torchrun fails, too,
  and has to be started again: Kubernetes and `--requeue` do.
- When the job ends (time limit, preemption), submit it again: --resume latest resumes the run, or
  starts it if there is none. With --dependency=singleton, several copies can be queued.
  After SIGTERM, torchrun gives its processes 30 seconds to write the training state.
- A run can be resumed on another number of GPUs that divides the batch size.

The batch size grows with the number of machines: 4 images per GPU, because minibatch statistics
need groups of 4. gamma is inversely proportional to it (gamma ∝ resolution²/batch, REFERENCE.md
§4.8): 32.8 at 32, 16.4 at 64. Learning rates do not change. For another recipe, use
`slurm_script(recipe="recipes.wikiart", …)`.

Hardware: 2 machines with 8 GPUs (10.6 GiB each as estimated by `sg3 plan`) and 32 CPU cores;
InfiniBand or 100 Gbit/s helps: every step exchanges the gradients, 90 MB of G and 116 MB of D.
Duration: 25 000 kimg in 3 to 4 days on 16 A100. Estimated: the reference implementation's published
157 s per kimg on one of them, and linear scaling with a loss of up to a quarter.
Result: not yet run here on several machines. On one machine, with two torchrun agents connected by
c10d, a small CPU run started, and resumed after kill -9 of a process and after both agents had
ended.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from recipes import ffhq_unaligned
from recipes.run import main
from sg3.training import TrainConfig

IMAGES_PER_GPU = 4


def config(
    data: str, outdir: str, nodes: int = 2, gpus_per_node: int = 8, **changes: Any
) -> TrainConfig:
    """Return the settings for `nodes` machines.

    Raises ValueError for an unknown or invalid change.
    """
    single = ffhq_unaligned.config(data, outdir)
    batch = IMAGES_PER_GPU * nodes * gpus_per_node
    gamma = single.gamma * single.batch / batch
    return ffhq_unaligned.config(data, outdir, **{"batch": batch, "gamma": gamma, **changes})


SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus_per_node}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={hours}:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
{extra}set -euo pipefail

export OMP_NUM_THREADS=1
export SG3_DIST_TIMEOUT_MINUTES=10
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((29400 + SLURM_JOB_ID % 1000))

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
  torchrun --nnodes="$SLURM_NNODES" --nproc-per-node={gpus_per_node} \\
  --max-restarts={max_restarts} --rdzv-backend=c10d --rdzv-endpoint="$first:$port" \\
  --rdzv-id="$SLURM_JOB_ID" -m {recipe} \\
  --data {data} --outdir {outdir} --resume latest
"""


def _check_launch(recipe: str, max_restarts: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: got {number}, expected at least 1")
    if max_restarts < 0:
        raise ValueError(f"max_restarts: got {max_restarts}, expected at least 0")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", recipe):
        raise ValueError(f"recipe: got {recipe!r}, expected a module like recipes.wikiart")


def slurm_script(
    data: str,
    outdir: str,
    nodes: int = 2,
    gpus_per_node: int = 8,
    hours: int = 24,
    max_restarts: int = 3,
    recipe: str = "recipes.multi_node",
    partition: str | None = None,
) -> str:
    """Return a script for `sbatch` that trains `recipe`, and resumes when submitted again.

    Submit it from an environment in which `python -m sg3` works.

    Args:
        data: zip or folder of training images.
        outdir: shared folder of the runs.
        nodes: number of machines.
        gpus_per_node: number of GPUs per machine.
        hours: time limit of the job.
        max_restarts: how often torchrun restarts the processes.
        recipe: module to run.
        partition: SLURM partition; None leaves the choice to SLURM.

    Raises ValueError if a number is out of range or a name is invalid.
    """
    numbers = {"nodes": nodes, "gpus_per_node": gpus_per_node, "hours": hours}
    _check_launch(recipe, max_restarts, **numbers)
    if partition is not None and not re.fullmatch(r"[\w,.-]+", partition):
        raise ValueError(f"partition: got {partition!r}, expected a name without spaces")
    return SLURM.format(
        **numbers,
        name=recipe.rsplit(".", 1)[-1],
        cpus=4 * gpus_per_node,  # per GPU, a process and its image decoders
        max_restarts=max_restarts,
        recipe=recipe,
        data=shlex.quote(data),
        outdir=shlex.quote(outdir),
        extra="" if partition is None else f"#SBATCH --partition={partition}\n",
    )


KUBERNETES = """\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{job-name: {name}}}
  ports: [{{port: 29400}}]
---
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  completions: {nodes}
  parallelism: {nodes}
  completionMode: Indexed
  backoffLimit: {backoff}
  template:
    spec:
      subdomain: {name}
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 120
      containers:
      - name: train
        image: {image}
        command: [torchrun, --nnodes={nodes}, --nproc-per-node={gpus_per_node},
          --max-restarts={max_restarts}, --rdzv-backend=c10d, --rdzv-id={name},
          "--rdzv-endpoint={name}-0.{name}:29400", -m, {recipe},
          --data, {data}, --outdir, {outdir}, --resume, latest]
        env:
        - {{name: OMP_NUM_THREADS, value: "1"}}
        - {{name: SG3_DIST_TIMEOUT_MINUTES, value: "10"}}
        - {{name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, value: "100"}}
        resources: {{limits: {{nvidia.com/gpu: {gpus_per_node}}}}}
        volumeMounts:
        - {{name: runs, mountPath: {outdir}}}
        - {{name: shm, mountPath: /dev/shm}}
      volumes:
      - {{name: runs, persistentVolumeClaim: {{claimName: {claim}}}}}
      - {{name: shm, emptyDir: {{medium: Memory}}}}
"""


def kubernetes_manifest(
    data: str,
    outdir: str,
    image: str,
    claim: str,
    nodes: int = 2,
    gpus_per_node: int = 8,
    max_restarts: int = 100,
    recipe: str = "recipes.multi_node",
    name: str = "sg3",
) -> str:
    """Return a manifest for `kubectl apply`: an indexed job with one pod per machine.

    A lost pod comes back, and with it the rendezvous of all; the run resumes. Not tried on a
    cluster; `benchmarks/two_machines.py` does the same with two agents.

    Args:
        data: shards in object storage, or a path in the image or below `outdir`.
        outdir: where the volume is mounted, and where the runs go.
        image: container image in which `python -m sg3` works.
        claim: PersistentVolumeClaim that all pods can write (ReadWriteMany).
        nodes: number of machines.
        gpus_per_node: number of GPUs per machine.
        max_restarts: how often torchrun restarts its processes.
        recipe: module to run.
        name: name of the job and of its service.

    Raises ValueError if a number is out of range or a name is invalid.
    """
    _check_launch(recipe, max_restarts, nodes=nodes, gpus_per_node=gpus_per_node)
    for key, value in {"name": name, "claim": claim}.items():
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", value):
            raise ValueError(f"{key}: got {value!r}, expected lower case letters, digits and -")
    texts = {"data": data, "outdir": outdir, "image": image}
    return KUBERNETES.format(
        **{key: json.dumps(value) for key, value in texts.items()},
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        backoff=50 * nodes,
        max_restarts=max_restarts,
        recipe=recipe,
        name=name,
        claim=claim,
    )


VARIANTS = {"2x8": config}

if __name__ == "__main__":
    main("recipes.multi_node", __doc__, VARIANTS)
