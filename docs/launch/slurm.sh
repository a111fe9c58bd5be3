#!/usr/bin/env bash
# Four nodes of eight GPUs, a process for each GPU. TERM comes two minutes before the time
# is up: the step is saved, and the same file, handed in again, goes on from there; so
# does Slurm by itself where a node is lost.
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# On a disk that all nodes share, as are workdir, frames and this checkout.
export STAN_JAX_CACHE=/shared/stan_jax_cache
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun does not take over by itself

srun .venv/bin/python train.py --config=configs/ytvis19_r50_sta.py:scratch \
  --workdir=/shared/runs/mine --coordinator=auto \
  --config.data.train.annotations=/shared/ytvis/train.json \
  --config.data.train.frames=/shared/ytvis/train/JPEGImages \
  --config.run.eval_every=0
