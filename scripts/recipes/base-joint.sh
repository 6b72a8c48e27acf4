#!/bin/sh
# base-joint.sh DATA: tunes Gemma-3-270M (LoRA) together with its gist vectors, and writes checkpoints/base-joint.
# Two cores without native bf16, fp32: 600 steps in 91 min.
#
# DATA: folder with train.jsonl and validation_unseen.jsonl. Started again after an interruption, it goes on from the last saved state.
# PYTHON: interpreter to use (default: the one of `make run`, else python3); a relative one counts from the project's folder.
set -eu
data=$(CDPATH='' cd -- "${1:?is missing. Give the folder DATA with train.jsonl and validation_unseen.jsonl.}" && pwd)
CDPATH='' cd -- "$(dirname -- "$0")/../.."
[ ! -x .venv/bin/python ] || : "${PYTHON:=.venv/bin/python}"
PYTHON=${PYTHON:-python3}
exec "$PYTHON" -m gistdemo train --recipe base-joint --run runs/base-joint --out checkpoints/base-joint \
    --data "$data/train.jsonl" --validation "$data/validation_unseen.jsonl"
