#!/bin/sh
# instruct-embeddings.sh DATA: trains gist vectors alone, appended to the prompt, on frozen SmolLM2-135M-Instruct;
# writes checkpoints/instruct-embeddings.
# Two cores, fp32: 150 steps in 6.9 min, 11 min with the evaluations on the way and at the end.
#
# DATA: folder with train.jsonl and validation_unseen.jsonl. Started again after an interruption, it goes on from the last saved state.
# PYTHON: interpreter to use (default: the one of `make run`, else python3); a relative one counts from the project's folder.
set -eu
data=$(CDPATH='' cd -- "${1:?is missing. Give the folder DATA with train.jsonl and validation_unseen.jsonl.}" && pwd)
CDPATH='' cd -- "$(dirname -- "$0")/../.."
[ ! -x .venv/bin/python ] || : "${PYTHON:=.venv/bin/python}"
PYTHON=${PYTHON:-python3}
exec "$PYTHON" -m gistdemo train --recipe instruct-embeddings --run runs/instruct-embeddings --out checkpoints/instruct-embeddings \
    --data "$data/train.jsonl" --validation "$data/validation_unseen.jsonl"
