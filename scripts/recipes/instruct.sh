#!/bin/sh
# instruct.sh DATA: trains a compressor (LoRA and gist vectors) for untouched SmolLM2-135M-Instruct, and writes checkpoints/instruct.
# Two cores with native bf16: 1,500 steps in 59.6 min, about 6.5 min of own answers before, 8 min of figures after.
#
# DATA: folder with train.jsonl and validation_unseen.jsonl. Started again after an interruption, it goes on from the last saved state.
# PYTHON: interpreter to use (default: the one of `make run`, else python3); a relative one counts from the project's folder.
set -eu
data=$(CDPATH='' cd -- "${1:?is missing. Give the folder DATA with train.jsonl and validation_unseen.jsonl.}" && pwd)
CDPATH='' cd -- "$(dirname -- "$0")/../.."
[ ! -x .venv/bin/python ] || : "${PYTHON:=.venv/bin/python}"
PYTHON=${PYTHON:-python3}
mkdir -p runs/instruct
"$PYTHON" scripts/recipes/long_held.py "$data/train.jsonl" runs/instruct/long_held.jsonl
exec "$PYTHON" -m gistdemo train --recipe instruct --run runs/instruct --out checkpoints/instruct \
    --data "$data/train.jsonl" --validation "$data/validation_unseen.jsonl+runs/instruct/long_held.jsonl"
