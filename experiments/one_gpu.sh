#!/usr/bin/env bash
# Run the depth experiment on one GPU: the first one, or the one in CUDA_VISIBLE_DEVICES.
#
#     experiments/one_gpu.sh PRESET [ARGUMENT...]      # arguments of python -m gap_jax.experiments.depth
#
# The same command continues a run that was stopped. All files go to --work, by default runs/PRESET.
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}  # JAX's default is 0.75

# Even under srun or mpirun there is only one process: JAX must not wait for others.
unset SLURM_STEP_NODELIST OMPI_MCA_orte_hnp_uri

exec python -m gap_jax.experiments.depth --preset "$preset" --work "runs/$preset" "$@"
