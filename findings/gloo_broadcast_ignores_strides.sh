#!/usr/bin/env bash
# torch.distributed.broadcast over gloo sends memory in its own order, whatever the strides are.
#
# Seen on 2026-11-30 with torch 2.15.0, Python 3.11, gloo on a CPU. Rank 0 has a transposed tensor,
# rank 1 a contiguous one of the same shape. After broadcast(tensor, src=0):
#
#   rank 0: [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   rank 1: [[0.0, 2.0], [4.0, 1.0], [3.0, 5.0]]
#
# Expected: equal tensors, or the error that all_reduce raises ("Tensors must be contiguous").
# It happens to networks of which one process has weights in channels-last format or a transposed
# view. Broadcasting tensor.contiguous() and copying the result back helps.
#
# Exits with 0 if that is still so. Installs torch (a few minutes) in a temporary folder.
set -euo pipefail
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT
python3 -m venv venv
venv/bin/pip install --quiet "torch==2.15.0" numpy
cat > script.py <<'PY'
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
values = torch.arange(6.0).reshape(3, 2)
own = values.T.contiguous().T if dist.get_rank() == 0 else torch.zeros(3, 2)
dist.broadcast(own, src=0)
found = [None, None]
dist.all_gather_object(found, own.tolist())
if dist.get_rank() == 0:
    print("equal" if found[0] == found[1] else "differ", *found, sep="\n")
dist.destroy_process_group()
PY
venv/bin/torchrun --standalone --nproc-per-node=2 script.py 2>/dev/null | tee out.txt
grep -qx differ out.txt
grep -qF "[[0.0, 2.0], [4.0, 1.0], [3.0, 5.0]]" out.txt
echo "as described"
