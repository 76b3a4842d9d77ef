#!/usr/bin/env bash
# launch/auto.sh RECIPE.toml [--section.key VALUE …]
# Trains with all GPUs of this machine, or with all cores of its CPU if it has no GPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
case $gpus in
    0) world=(--config_file "$here/cpu.yaml") ;;
    1) world=(--config_file "$here/gpu.yaml") ;;
    *) world=(--config_file "$here/multi-gpu.yaml" --num_processes "$gpus")
       set -- "$@" --training.world_size "$gpus" ;;
esac
exec python -m distrib.launcher "${world[@]}" -m distrib.train "$@" # accelerate launch, with the exit code of the run
