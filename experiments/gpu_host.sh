#!/usr/bin/env bash
# The depth experiment on all GPUs of this host, or CUDA_VISIBLE_DEVICES: one process, which sees them all.
#
#     experiments/gpu_host.sh PRESET [ARGUMENT...]     # of python -m gap_jax.experiments.depth
#
# The same command again goes on where it was stopped. Everything goes to --work, by default runs/PRESET.
# Batches are split over the GPUs: see README.md for those that do not divide, as the presets' over 8.
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}  # JAX's own: 0.75

# Started by srun or mpirun, JAX would take one GPU for each process; here is one process for all.
unset SLURM_STEP_NODELIST OMPI_MCA_orte_hnp_uri

exec python -m gap_jax.experiments.depth --preset "$preset" --work "runs/$preset" "$@"
