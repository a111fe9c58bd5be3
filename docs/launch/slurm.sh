#!/usr/bin/env bash
# Four nodes of eight GPUs, a process for each GPU. TERM comes two minutes before the time
# is up: the step is saved, and the job put in line again goes on from there.
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# On a disk that all nodes share, as are the frames and this checkout.
export STAN_JAX_CACHE=/shared/stan_jax_cache
workdir=/shared/runs/mine

srun .venv/bin/python train.py --config=configs/ytvis19_r50_sta.py:scratch \
  --workdir="$workdir" --coordinator=auto --config.data.num_threads=8
srun .venv/bin/python eval.py --workdir="$workdir" --coordinator=auto \
  --annotations=/shared/ytvis/valid.json --frames=/shared/ytvis/valid/JPEGImages
