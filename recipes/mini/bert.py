"""A BERT of the size of mini, trained in the usual way on the same documents for the same wall time, for comparison.

python recipes/mini/bert.py                     after `modernbert pretrain recipes/mini/pretrain.toml`

The model is transformers' BertForMaskedLM: learned positions, post-norm, 4 layers of 256 with a feed-forward of 1,024,
7.6 M parameters as mini has. Documents are cut into pieces of at most 510 tokens and padded to the longest of a batch;
15 % of the tokens are masked; AdamW with weight decay 0.01, gradients clipped at 1, the learning rate warmed up over
the first 5 % of the time and then falling linearly to 0. bf16 autocast and one thread, as mini. Dropout is off, as in
mini, because neither model sees its documents often enough to overfit.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from modernbert.config import load
from modernbert.files import atomic_write
from modernbert.run_metrics import Metrics
from modernbert.stream.masking import IGNORED, mask_tokens
from modernbert.stream.shards import Documents, Shards
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train.recipe import PretrainRecipe

LENGTH = 512
SEQUENCES = 16  # 8,192 slots, the batch of mini
MASK_RATIO = 0.15
RECIPE = Path(__file__).parent / "pretrain.toml"


def bert(vocabulary: Vocabulary) -> BertForMaskedLM:
    """4 layers, 256 wide."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary.size,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=vocabulary.pad_id,
        )
    )


def pieces(documents: Documents, vocabulary: Vocabulary, seed: int) -> Iterator[np.ndarray]:
    """Documents split into [CLS] ... [SEP] of at most LENGTH tokens, in a new random order every epoch."""
    room = LENGTH - 2
    counts = -(-documents.lengths // room)
    owners = np.repeat(documents.indices, counts)
    starts = (np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)) * room
    random = np.random.Generator(np.random.PCG64DXSM(seed))
    while True:
        for place in random.permutation(len(owners)):
            ids = documents.shards.slice(owners[place], starts[place], starts[place] + room)
            yield np.concatenate([[vocabulary.cls_id], ids, [vocabulary.sep_id]]).astype(np.int64)


def mixed(recipe: PretrainRecipe, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
    """Chunks of all sources, in the proportions of the three phases of mini."""
    weights: dict[str, float] = {}
    for phase in recipe.phases.values():
        total = sum(phase.mixture.values())
        for name, weight in phase.mixture.items():
            weights[name] = weights.get(name, 0.0) + phase.tokens * weight / total
    streams, served = {}, dict.fromkeys(weights, 1)
    for seed, name in enumerate(weights):
        documents = Shards.open(recipe.data[name].path).split(recipe.validation.fraction).train
        streams[name] = pieces(documents, vocabulary, seed)
    while True:
        name = max(weights, key=lambda name: weights[name] / served[name])
        piece = next(streams[name])
        served[name] += len(piece)
        yield piece


def padded(batch: list[np.ndarray], vocabulary: Vocabulary, first: int) -> dict[str, torch.Tensor]:
    """A padded batch with 15 % of its tokens masked."""
    longest = max(map(len, batch))
    input_ids = torch.full((len(batch), longest), vocabulary.pad_id)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, ids in enumerate(batch):
        masked, label = mask_tokens(ids, vocabulary, ratio=MASK_RATIO, seed=0, step=first + row)
        input_ids[row, : len(ids)], labels[row, : len(ids)] = torch.from_numpy(masked), torch.from_numpy(label)
    return {"input_ids": input_ids, "labels": labels, "attention_mask": (input_ids != vocabulary.pad_id).long()}


def seconds_of(run: Path) -> float:
    """Wall time of the steps of a run."""
    lines = [line for line in Metrics(run / "metrics.jsonl").read() if "loss" in line]
    tokens = np.diff([line["tokens"] for line in lines], prepend=0)
    return float(sum(tokens / [line["tokens_per_second"] for line in lines]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/mini/bert"))
    parser.add_argument("--peak-lr", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, help="the wall time. [default: that of the steps of mini]")
    options = parser.parse_args()
    recipe = load(PretrainRecipe, RECIPE)
    vocabulary = Vocabulary.of(load_tokenizer(recipe.tokenizer))
    seconds = options.seconds or seconds_of(recipe.run.directory)
    torch.manual_seed(0)
    model = bert(vocabulary).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {seconds:.0f} seconds", flush=True)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
        lr=options.peak_lr,
        fused=True,
    )
    stream = mixed(recipe, vocabulary)
    options.output.mkdir(parents=True, exist_ok=True)
    lines, losses, step, tokens, began = [], [], 0, 0, time.perf_counter()
    while (progress := (time.perf_counter() - began) / seconds) < 1:
        batch = padded([next(stream) for _ in range(SEQUENCES)], vocabulary, first=step * SEQUENCES)
        for group in optimizer.param_groups:
            group["lr"] = options.peak_lr * min(progress / 0.05, (1 - progress) / 0.95)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, tokens = step + 1, tokens + int(batch["attention_mask"].sum())
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            line = {"step": step, "tokens": tokens, "loss": sum(losses) / len(losses)}
            lines.append(line | {"seconds": time.perf_counter() - began})
            losses = []
            print(json.dumps(lines[-1]), flush=True)
    model.save_pretrained(options.output / "final")
    with atomic_write(options.output / "metrics.jsonl") as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
