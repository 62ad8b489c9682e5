#!/usr/bin/env bash
# Run the depth experiment under SLURM, with one task per GPU, as JAX expects.
#
#     sbatch experiments/slurm.sh PRESET [ARGUMENT...]                  # on one host with 4 GPUs
#     sbatch --nodes 2 experiments/slurm.sh PRESET [ARGUMENT...]        # on two such hosts
#
# Submit it from the root of the checkout, with the environment's python on PATH. Submitted again, it continues a
# run that was stopped; submitted several times, one job runs after the other. Two minutes before the time ends,
# SIGTERM makes it save the current step. All hosts need the same files: the checkout, data, models and --work (by
# default runs/PRESET) must be on a file system that they share.
#SBATCH --job-name=gap_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --dependency=singleton
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}  # JAX's default is 0.75
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}  # srun does not inherit this from sbatch

# Each task sees all GPUs of its host, and JAX gives it the GPU of its number there. If one task fails, all end.
exec srun --gpu-bind=none --kill-on-bad-exit=1 \
    python -m gap_jax.experiments.depth --preset "$preset" --work "runs/$preset" "$@"
