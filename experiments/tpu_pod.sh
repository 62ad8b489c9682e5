#!/usr/bin/env bash
# Run the depth experiment on all hosts of a Cloud TPU slice, from any machine with gcloud.
#
#     TPU=NAME ZONE=ZONE experiments/tpu_pod.sh PRESET --work FOLDER [ARGUMENT...]
#
# Arguments are those of `python -m gap_jax.experiments.depth`. The same command continues a run that was stopped.
# Each host has a checkout in CHECKOUT (by default gap_jax in the home folder) with its environment in .venv. The
# data, the models and --work must be on a file system that all hosts share and mount at the same place, such as
# Filestore: give --work and all other paths as absolute paths.
set -euo pipefail

preset=${1:?give a preset: taskonomy-unet, taskonomy-dpt or replica}
shift
if [[ " $* " != *" --work"[\ =]* ]]; then
    echo "give --work, a folder on a file system that all hosts share" >&2
    exit 2
fi

arguments=$(printf ' %q' --preset "$preset" "$@")
command="cd ${CHECKOUT:-gap_jax} && export PATH=\"\$PWD/.venv/bin:\$PATH\" &&"
command+=" exec python -m gap_jax.experiments.depth$arguments"
exec gcloud compute tpus tpu-vm ssh "${TPU:?give the name of the TPU}" --zone="${ZONE:?give its zone}" \
    --worker=all --command="$command"
