#!/usr/bin/env bash
# The depth experiment on all hosts of a Cloud TPU slice, of one or many; from any machine with gcloud.
#
#     TPU=NAME ZONE=ZONE experiments/tpu_pod.sh PRESET --work FOLDER [ARGUMENT...]
#
# Arguments are those of `python -m gap_jax.experiments.depth`. The same command again goes on where it was
# stopped. Each host has a checkout in CHECKOUT, by default gap_jax in the home folder, with its environment
# in .venv. Data, models and --work must be on a file system that all hosts share, mounted at the same place
# (Filestore, say): give --work, and all paths, as absolute ones.
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
