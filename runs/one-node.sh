#!/usr/bin/env bash
# Train on one machine: a process for each GPU, or as many as PROCESSES says, on CPUs too.
#
#   runs/one-node.sh recipes/base/pretrain.toml
#   PROCESSES=2 RESTARTS=0 runs/one-node.sh pretrain.toml run.parallel=fsdp
#
# A process that dies ends the others, and all start again from the newest checkpoint, RESTARTS times at most.
set -euo pipefail
python=${PYTHON:-python}
processes=${PROCESSES:-$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$processes" --max-restarts "${RESTARTS:-3}" \
    -m modernbert pretrain "$@"
