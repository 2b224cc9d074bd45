#!/usr/bin/env bash
# All GPUs of one machine. Latents are shared out among LATENT of them (1: each holds whole
# dictionaries); a worker that dies is started again from the last checkpoint, three times.
#
#   MODEL=./my-model TEXT=tokens OUT=runs/mine bash examples/jobs/one_node.sh --n-latents 65536
set -euo pipefail

: "${MODEL:?a model folder or id}" "${TEXT:?what crossproof tokenize wrote, or a text}"
: "${OUT:?the run folder}"
GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
DEVICE=cuda
if [ "$GPUS" -eq 0 ]; then
    GPUS=2 DEVICE=cpu
fi

exec torchrun --standalone --nproc-per-node "$GPUS" --max-restarts 3 -m crossproof train \
    --model "$MODEL" --text "$TEXT" --out "$OUT" --device "${DEVICE}" \
    --latent-processes "${LATENT:-1}" --checkpoint-every "${EVERY:-250}" "$@"
