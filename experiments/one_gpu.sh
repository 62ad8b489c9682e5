#!/usr/bin/env bash
# The depth experiment on one GPU: the first, or CUDA_VISIBLE_DEVICES.
#
#     experiments/one_gpu.sh PRESET [ARGUMENT...]      # of python -m gap_jax.experiments.depth
#
# The same command again goes on where it was stopped. Everything goes to --work, by default runs/PRESET.
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}  # JAX's own: 0.75

# Started by srun too, it is one process: JAX must not look for others.
unset SLURM_STEP_NODELIST OMPI_MCA_orte_hnp_uri

exec python -m gap_jax.experiments.depth --preset "$preset" --work "runs/$preset" "$@"
