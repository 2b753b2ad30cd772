#!/bin/bash
# Train on the nodes of a SLURM job, one process a node, in a folder that all of them see:
#
#     sbatch recipes/cluster/slurm.sh
#
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
set -euo pipefail
export PATH="$PWD/.venv/bin:$PATH"

workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" |
    awk -v port="${PORT:-12345}" '{printf "%s\"%s:%d\"", (NR > 1 ? ", " : ""), $1, port + NR - 1}')
export workers

# shellcheck disable=SC2016  # for each task to expand
srun --kill-on-bad-exit=1 bash -c '
    task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
    export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": $task}"
    if [ "$SLURM_PROCID" = 0 ]; then exec dvc repro train; else exec python -m stages.train; fi'
