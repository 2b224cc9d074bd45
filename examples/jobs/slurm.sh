#!/usr/bin/env bash
# Two nodes of four GPUs each: latents are shared out within a node, tokens between the two.
#
#   MODEL=/models/mine TEXT=/data/tokens OUT=/runs/mine sbatch examples/jobs/slurm.sh --steps 20000
#
# The run folder must be on a file system that both nodes see. When the time is nearly up Slurm
# signals the job, training stops after a step with a checkpoint saved, and the job queues itself
# again and goes on from there.
#SBATCH --job-name=crossproof
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail

: "${MODEL:?a model folder or id}" "${TEXT:?what crossproof tokenize wrote}" "${OUT:?the run folder}"
NODES=${SLURM_JOB_NUM_NODES:-1}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

if [ -e "$OUT/config.json" ]; then
    set -- --resume --out "$OUT" --latent-processes "${LATENT:-4}"
else
    set -- --out "$OUT" --model "$MODEL" --text "$TEXT" --device "${DEVICE:-cuda}" \
        --latent-processes "${LATENT:-4}" "$@"
fi

# A store of addresses for each restart: in one for all of them a restarted process may find where
# another was before it died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

code=0
srun torchrun --nnodes "$NODES" --nproc-per-node "${GPUS:-4}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29400}" --rdzv-id "${SLURM_JOB_ID:-0}" \
    -m crossproof train "$@" || code=$?

# 130: stopped with a checkpoint saved. torchrun reports a stopped worker as failed (1).
if [ "$code" -ne 0 ] && [ ! -e "$OUT/results.json" ] && [ -d "$OUT/checkpoints" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
