#!/usr/bin/env bash
# launch/auto.sh RECIPE.toml [--section.key VALUE …]
# Trains with all GPUs of this machine, or with all cores of its CPU if it has no GPU.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the launcher's default, set here so that it prints no notice; the trainer takes all cores
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
case $gpus in
    0) world=(--config_file "$here/cpu.yaml") ;;
    1) world=(--config_file "$here/gpu.yaml") ;;
    *) world=(--config_file "$here/multi-gpu.yaml" --num_processes "$gpus")
       set -- "$@" --training.world_size "$gpus" ;;
esac
exec accelerate launch --quiet "${world[@]}" -m distrib.train "$@"
