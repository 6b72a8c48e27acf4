#!/bin/sh
# base.sh DATA: trains gist vectors alone, appended to the prompt, on frozen Gemma-3-270M, and writes checkpoints/base.
# Two cores, fp32: 150 steps in 12.5 min, 20 min with the evaluations on the way and at the end.
#
# DATA: folder with train.jsonl and validation_unseen.jsonl. Started again after an interruption, it goes on from the last saved state.
# PYTHON: interpreter to use (default: the one of `make run`, else python3); a relative one counts from the project's folder.
set -eu
data=$(CDPATH='' cd -- "${1:?is missing. Give the folder DATA with train.jsonl and validation_unseen.jsonl.}" && pwd)
CDPATH='' cd -- "$(dirname -- "$0")/../.."
[ ! -x .venv/bin/python ] || : "${PYTHON:=.venv/bin/python}"
PYTHON=${PYTHON:-python3}
exec "$PYTHON" -m gistdemo train --recipe base --run runs/base --out checkpoints/base \
    --data "$data/train.jsonl" --validation "$data/validation_unseen.jsonl"
