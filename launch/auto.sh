#!/usr/bin/env bash
# launch/auto.sh RECIPE.toml [--section.key VALUE …]
# Trains with all GPUs of this machine, or with all cores of its CPU if it has no GPU.
set -euo pipefail
trap 'echo "stopped on request before the run began; the same command starts it" >&2; exit 75' TERM INT USR1 HUP
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=$(python -c 'import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); import torch; print(torch.cuda.device_count())')
case $gpus in
    0) world=(--config_file "$here/cpu.yaml") ;;
    1) world=(--config_file "$here/gpu.yaml") ;;
    *) world=(--config_file "$here/multi-gpu.yaml" --num_processes "$gpus")
       set -- "$@" --training.world_size "$gpus" ;;
esac
exec python -m distrib.launcher "${world[@]}" -m distrib.train "$@" # accelerate launch, with the exit code of the run
