#!/usr/bin/env bash
# launch/auto.sh RECIPE.toml [--section.key VALUE …]
# Trains with all GPUs of this machine, or with all cores of its CPU when it has none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
case $gpus in
    0) world=(--config_file "$here/cpu.yaml")
       export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(python -c 'from distrib.world import default_threads; print(default_threads())')} ;;
    1) world=(--config_file "$here/gpu.yaml") ;;
    *) world=(--config_file "$here/multi-gpu.yaml" --num_processes "$gpus")
       set -- "$@" --training.world_size "$gpus" ;;
esac
exec accelerate launch --quiet "${world[@]}" -m distrib.train "$@"
