#!/usr/bin/env bash
# ModernBERT-large from base, one line per stage, after runs/base.sh: 528 hours on eight H100. Any line may be repeated.
set -euxo pipefail
modernbert plan recipes/large/pretrain.toml --gpus 8 --device h100
test -d output/large/start || modernbert grow output/base/model output/large/start --preset large # tiled
runs/one-node.sh recipes/large/pretrain.toml
modernbert plot output/large/run --output output/large/run.png
modernbert evaluate positions output/large/run --output output/large/positions.png
modernbert average output/large/run --best 3 --output output/large/model
modernbert fill-mask "The capital of Japan is [MASK]." --model output/large/model
