#!/usr/bin/env bash
# ModernBERT-base as published, one line a stage: 2.019 T tokens, 246 hours on eight H100. Any line may be given again;
# it goes on where it stopped, or says that it is done.
set -euxo pipefail
modernbert plan recipes/base/pretrain.toml --gpus 8 --device h100 # what it takes, before anything is spent
modernbert corpus recipes/base/corpus.toml                        # your text, with the published tokenizer
runs/one-node.sh recipes/base/pretrain.toml                       # three phases: 1,024 tokens, 8,192, decay
modernbert plot output/base/run --output output/base/run.png
modernbert evaluate positions output/base/run --output output/base/positions.png # what the second phase gave
modernbert average output/base/run --best 3 --output output/base/model           # three best of the decay, and the last
modernbert fill-mask "The capital of Japan is [MASK]." --model output/base/model
