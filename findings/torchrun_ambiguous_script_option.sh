#!/usr/bin/env bash
# torchrun refuses an option of the training script that begins like several options of its own.
#
# Seen on 2026-11-30 with torch 2.15.0, Python 3.11. Everything after the script's name is meant
# for the script, and even `--role`, which is also torchrun's, gets there. But `--log`, which is
# neither, stops torchrun with status 2:
#
#   torchrun: error: ambiguous option: --log could match --log-dir, --log_dir,
#   --log-line-prefix-template, --log_line_prefix_template, --logs-specs, --logs_specs
#
# Expected: the script gets it. argparse looks for ambiguous abbreviations in the whole command
# line before it gives the rest to the script. `--` before the script helps.
#
# Exits with 0 if that is still so. Installs torch (a few minutes) in a temporary folder.
set -euo pipefail
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT
python3 -m venv venv
venv/bin/pip install --quiet "torch==2.15.0" numpy
echo 'import sys; print("script got", sys.argv[1:])' > script.py
run() { venv/bin/torchrun --nproc-per-node=1 "$@" 2>&1 || true; }

run script.py --role b | grep -F "script got ['--role', 'b']"
run script.py --log b | grep -F "ambiguous option: --log could match --log-dir"
run -- script.py --log b | grep -F "script got ['--log', 'b']"
echo "as described"
