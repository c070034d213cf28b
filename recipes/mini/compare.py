"""Compare mini and BERT: the same held-out chunks with the same masks, and the fifty sentences.

python recipes/mini/compare.py                  after mini and `python recipes/mini/bert.py`
python recipes/mini/compare.py --mini output/mini/run/final --bert output/mini/bert/final --plot comparison.png

Both are transformers' AutoModelForMaskedLM, in fp32. Held-out documents are cut into pieces of at most 510 tokens, so
that BERT can read them; 15 % of the tokens are masked.
"""

import argparse
import json
import math
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from bert import RECIPE, padded, pieces
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, PreTrainedModel

from modernbert.config import load
from modernbert.files import atomic_write
from modernbert.plots.style import pyplot
from modernbert.run_metrics import Metrics
from modernbert.stream.masking import IGNORED
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import Vocabulary, load_tokenizer
from modernbert.train.recipe import PretrainRecipe

TOKENS = 32_768  # maximum for every source
SENTENCES = Path(__file__).parent / "cloze.jsonl"


def batches(recipe: PretrainRecipe, source: str, vocabulary: Vocabulary) -> Iterator[dict[str, torch.Tensor]]:
    """Held-out chunks of a source, four at a time."""
    documents = Shards.open(recipe.data[source].path).split(recipe.validation.fraction).validation
    left, chosen, stream = min(TOKENS, int(documents.lengths.sum())), [], pieces(documents, vocabulary, seed=0)
    while left > 0:
        chosen.append(next(stream))
        left -= len(chosen[-1])
    for first in range(0, len(chosen), 4):
        yield padded(chosen[first : first + 4], vocabulary, first)


@torch.inference_mode()
def held_out(model: PreTrainedModel, recipe: PretrainRecipe, vocabulary: Vocabulary) -> dict[str, dict[str, float]]:
    """Loss in nats, accuracy and bits per byte of masked tokens, by source."""
    byte_lengths, results = torch.from_numpy(vocabulary.byte_lengths), {}
    for source in recipe.data:
        nats = correct = count = num_bytes = 0.0
        for batch in batches(recipe, source, vocabulary):
            masked = batch["labels"] != IGNORED
            wanted = batch.pop("labels")[masked]
            logits = model(**batch).logits[masked].float()
            nats += float(F.cross_entropy(logits, wanted, reduction="sum"))
            correct += int((logits.argmax(-1) == wanted).sum())
            num_bytes += int(byte_lengths[wanted].sum())
            count += len(wanted)
        bits = nats / math.log(2) / num_bytes
        results[source] = {"loss": nats / count, "accuracy": correct / count, "bits_per_byte": bits}
    return results


@torch.inference_mode()
def cloze(model: PreTrainedModel, tokenizer: Tokenizer, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The five best words for the mask of every sentence."""
    answers = []
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        sentence = json.loads(line)
        ids = torch.tensor([tokenizer.encode(sentence["text"]).ids])
        best = model(input_ids=ids).logits[0, ids[0] == vocabulary.mask_id][0].topk(5).indices
        answers.append(sentence | {"best": [tokenizer.decode([int(i)]).strip() for i in best]})
    return answers


def losses(metrics: Path) -> tuple[list[float], list[float]]:
    """Minutes and training loss of a run of either kind."""
    lines = [line for line in Metrics(metrics).read() if "loss" in line]
    if "seconds" in lines[0]:
        return [line["seconds"] / 60 for line in lines], [line["loss"] for line in lines]
    tokens = [0] + [line["tokens"] for line in lines]
    steps = [(b - a) / line["tokens_per_second"] for a, b, line in zip(tokens, tokens[1:], lines, strict=False)]
    return [seconds / 60 for seconds in accumulate(steps)], [line["loss"] for line in lines]


def draw(found: dict[str, dict[str, dict[str, float]]], folders: dict[str, Path], path: Path) -> None:
    """Training loss over time, and bits per byte of every source."""
    drawing = pyplot()
    figure, (curves, bars) = drawing.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for number, (name, results) in enumerate(found.items()):
        curves.plot(*losses(folders[name].parent / "metrics.jsonl"), label=name)
        places = [place + 0.4 * number for place in range(len(results))]
        bars.bar(places, [result["bits_per_byte"] for result in results.values()], width=0.38, label=name)
    curves.set(xlabel="minutes", ylabel="training loss, nats per masked token", ylim=(None, 9))
    bars.set(ylabel="held-out bits per byte, 15 % masked")
    bars.set_xticks([place + 0.2 for place in range(len(results))], list(results), rotation=20)
    for axes in (curves, bars):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix.removeprefix("."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mini", type=Path, default=Path("output/mini/run/final"))
    parser.add_argument("--bert", type=Path, default=Path("output/mini/bert/final"))
    parser.add_argument("--plot", type=Path, help="a PNG or SVG with the losses over time and the bits per byte")
    options = parser.parse_args()
    recipe = load(PretrainRecipe, RECIPE)
    tokenizer = load_tokenizer(recipe.tokenizer)
    vocabulary = Vocabulary.of(tokenizer)
    folders = {"mini": options.mini, "BERT": options.bert}
    models = {name: AutoModelForMaskedLM.from_pretrained(folder).float().eval() for name, folder in folders.items()}
    found = {name: held_out(model, recipe, vocabulary) for name, model in models.items()}
    print("| source |" + "".join(f" {name}: bits per byte | accuracy |" for name in found))
    print("|---|" + "---|---|" * len(found))
    for source in recipe.data:
        results = [result[source] for result in found.values()]
        cells = (f" {result['bits_per_byte']:.3f} | {100 * result['accuracy']:.1f} % |" for result in results)
        print(f"| {source} |" + "".join(cells))
    answers = {name: cloze(model, tokenizer, vocabulary) for name, model in models.items()}
    print("\n| sentence | answer |" + "".join(f" {name} |" for name in answers))
    print("|---|---|" + "---|" * len(answers))
    for lines in zip(*answers.values(), strict=True):
        cells = (f" {'**' if line['answer'] in line['best'] else ''}{', '.join(line['best'])}" for line in lines)
        cells = (cell + ("** |" if "**" in cell else " |") for cell in cells)
        print(f"| {lines[0]['text']} | {lines[0]['answer']} |" + "".join(cells))
    for name, lines in answers.items():
        five, first = (sum(line["answer"] in line["best"][:count] for line in lines) for count in (5, 1))
        print(f"\n{name}: {five} of {len(lines)} answers among the five best, {first} first")
    if options.plot:
        draw(found, folders, options.plot)


if __name__ == "__main__":
    main()
