#!/usr/bin/env bash
# Run the depth experiment on all GPUs of this host, or on those in CUDA_VISIBLE_DEVICES, in one process.
#
#     experiments/gpu_host.sh PRESET [ARGUMENT...]     # arguments of python -m gap_jax.experiments.depth
#
# The same command continues a run that was stopped. All files go to --work, by default runs/PRESET. Batches are
# split over the GPUs; README.md tells what to do if they do not divide, such as the presets' over more than 8.
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}  # JAX's default is 0.75

# Under srun or mpirun, JAX takes one GPU per process; here, one process uses all GPUs.
unset SLURM_STEP_NODELIST OMPI_MCA_orte_hnp_uri

exec python -m gap_jax.experiments.depth --preset "$preset" --work "runs/$preset" "$@"
