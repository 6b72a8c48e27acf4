#!/bin/sh
# earlier-experiment.sh DATA: trains by the settings of the earlier experiment and measures as it did, on the base and on the instruct model,
# into runs/, and keeps the figures in assets/evaluations. Two cores, fp32: each 500 steps in about 23 min, then 600 answers in about 20.
#
# DATA: folder with train.jsonl and validation_unseen.jsonl. Started again after an interruption, it goes on from the last saved state.
# PYTHON: interpreter to use (default: the one of `make run`, else python3); a relative one counts from the project's folder.
set -eu
data=$(CDPATH='' cd -- "${1:?is missing. Give the folder DATA with train.jsonl and validation_unseen.jsonl.}" && pwd)
CDPATH='' cd -- "$(dirname -- "$0")/../.."
[ ! -x .venv/bin/python ] || : "${PYTHON:=.venv/bin/python}"
PYTHON=${PYTHON:-python3}
for backbone in gemma-3-270m smollm2-135m-instruct; do
    "$PYTHON" scripts/earlier_experiment.py --backbone "$backbone" --out "runs/earlier-experiment-$backbone" --keep \
        --data "$data/train.jsonl" --validation "$data/validation_unseen.jsonl"
done
