#!/usr/bin/env bash
# Train on one machine with one process for each GPU, or PROCESSES processes, also on CPUs.
#
#   runs/one-node.sh recipes/base/pretrain.toml
#   PROCESSES=2 RESTARTS=0 runs/one-node.sh pretrain.toml run.parallel=fsdp
#
# If a process fails, the others exit, and all start again from the newest checkpoint, at most RESTARTS times.
set -euo pipefail
python=${PYTHON:-python}
processes=${PROCESSES:-$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" --max-restarts "${RESTARTS:-3}" \
    -m modernbert pretrain "$@"
