#!/usr/bin/env bash
# ModernBERT-base as published, one line per stage: 2.019 T tokens, 246 hours on eight H100. Any line may be repeated;
# it resumes, or prints that it is complete.
set -euxo pipefail
modernbert plan recipes/base/pretrain.toml --gpus 8 --device h100 # estimates time, memory and cost
modernbert corpus recipes/base/corpus.toml                        # your text, with the published tokenizer
runs/one-node.sh recipes/base/pretrain.toml                       # three phases: 1,024 tokens, 8,192, decay
modernbert plot output/base/run --output output/base/run.png
modernbert evaluate positions output/base/run --output output/base/positions.png # the effect of the second phase
modernbert average output/base/run --best 3 --output output/base/model           # the three best checkpoints of the decay and the last one
modernbert fill-mask "The capital of Japan is [MASK]." --model output/base/model
