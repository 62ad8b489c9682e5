#!/usr/bin/env bash
# The depth experiment under SLURM: one task for each GPU, which is what JAX expects there.
#
#     sbatch experiments/slurm.sh PRESET [ARGUMENT...]                  # on one host of 4 GPUs
#     sbatch --nodes 2 experiments/slurm.sh PRESET [ARGUMENT...]        # on two
#
# From the checkout's root, with the environment's python on PATH. Submitted again, it goes on where it was
# stopped; submitted several times, one job runs after the other. All hosts need the same files: the checkout,
# data, models and --work, by default runs/PRESET, on a file system that they share.
#SBATCH --job-name=gap_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --dependency=singleton
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}  # JAX's own: 0.75
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}  # which srun does not take over from sbatch

# Each task sees all GPUs of its host; JAX gives it the one of its number there. One that fails ends all.
exec srun --gpu-bind=none --kill-on-bad-exit=1 \
    python -m gap_jax.experiments.depth --preset "$preset" --work "runs/$preset" "$@"
