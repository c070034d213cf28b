#!/usr/bin/env bash
# infinity-emb in a separate environment, for `modernbert bench serve`: bash docs/benchmarks/infinity.sh ENVIRONMENT
# Prints the option that compares it with `modernbert serve` on the embedder in FOLDER.
set -euo pipefail
place=${1:?give the folder that the environment is to be in}
if [ ! -e "$place/ready" ]; then
    python3 -m venv --clear "$place"
    # 0.0.78 of 2025 needs transformers before 5 and sentence-transformers before 4
    "$place/bin/python" -m pip install -q "torch==2.13.0" "infinity-emb[server,torch]==0.0.78"
    touch "$place/ready"
fi
options="--engine torch --device cpu --dtype float32 --no-bettertransformer --no-compile --no-model-warmup"
echo "--beside \"$(realpath "$place")/bin/infinity_emb v2 --model-id FOLDER $options --port {port}\""
