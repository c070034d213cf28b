"""The quality of a model: held-out bits per byte of every source, and the fifty sentences of recipes/mini/cloze.jsonl.

python recipes/english-mini/evaluate.py output/english-mini/run/final
python recipes/english-mini/evaluate.py output/english-mini/run/final output/english-mini/int8 --output figures.json

Held-out documents are those of the recipe, packed into rows of 512 tokens; 15 % of their tokens are masked, the same
ones for every model of one tokenizer. A sentence counts where its answer is the best, or among the five best words.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from modernbert import FillMask
from modernbert.config import load
from modernbert.errors import ModernBertError
from modernbert.files import atomic_write
from modernbert.model import MaskedLM
from modernbert.runtime import select_device
from modernbert.stream.loader import validation_batches
from modernbert.stream.shards import Shards
from modernbert.tasks.fill_mask import Candidate
from modernbert.text.tokenizer import sha256
from modernbert.train.recipe import PretrainRecipe
from modernbert.train.validation import evaluate

RECIPE = Path(__file__).parent / "pretrain.toml"
SENTENCES = Path(__file__).parents[1] / "mini" / "cloze.jsonl"
CAPITAL = "The capital of Japan is [MASK]."
MAX_LENGTH = 512
MASK_RATIO = 0.15


def measure(folder: Path, recipe: PretrainRecipe, tokens: int, device: str = "auto") -> dict[str, Any]:
    """The figures of one model folder: parameters, bytes of its files, held-out quality by source, sentences.

    Raises:
        ModernBertError: there is no such model, or the shards are missing or of another tokenizer.
    """
    fill = FillMask.from_pretrained(folder, device=device)
    model = MaskedLM.from_pretrained(folder, device=select_device(device), dtype=torch.float32)
    sentences = [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    filled = fill([sentence["text"] for sentence in sentences], top_k=5)
    [capital] = fill(CAPITAL, top_k=5)
    held_out = {}
    for source, data in recipe.data.items():
        shards = Shards.open(data.path)
        shards.check_vocabulary(fill.vocabulary, sha256(folder))
        batches = validation_batches(
            shards.split(recipe.validation.fraction).validation, fill.vocabulary,
            max_length=min(MAX_LENGTH, model.config.max_position_embeddings), tokens=tokens, mask_ratio=MASK_RATIO,
        )  # fmt: skip
        held_out[source] = evaluate(model, batches, fill.vocabulary, "fp32")
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "held_out": held_out,
        "sentences": [
            sentence | {"best": [candidate.token.strip() for candidate in candidates]}
            for sentence, [candidates] in zip(sentences, filled, strict=True)
        ],
        "capital": [_record(candidate) for candidate in capital],
    }


def among(figures: dict[str, Any], count: int) -> int:
    """The number of sentences with the answer among the `count` best words."""
    return sum(sentence["answer"] in sentence["best"][:count] for sentence in figures["sentences"])


def knows_the_capital(figures: dict[str, Any]) -> bool:
    """Whether " Tokyo" is among the five best words of CAPITAL."""
    return any(candidate["token"] == " Tokyo" for candidate in figures["capital"])


def held_out_table(models: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table: one for each source, then the number of sentences."""
    lines = ["| |" + "".join(f" {name} |" for name in models), "|---|" + "---|" * len(models)]
    for source in next(iter(models.values()))["held_out"]:
        results = [figures["held_out"][source] for figures in models.values()]
        lines.append(
            f"| {source}: bits per byte, accuracy |"
            + "".join(f" {found['bits_per_byte']:.3f}, {100 * found['accuracy']:.1f} % |" for found in results)
        )
    for count, where in ((5, "among the five best"), (1, "first")):
        cells = (f" {among(figures, count)} of {len(figures['sentences'])} |" for figures in models.values())
        lines.append(f"| sentences: the answer is {where} |" + "".join(cells))
    cells = (f" {'yes' if knows_the_capital(figures) else 'no'} |" for figures in models.values())
    lines.append(f'| "{CAPITAL}": Tokyo among the five best |' + "".join(cells))
    return lines


def _record(candidate: Candidate) -> dict[str, Any]:
    return {"token": candidate.token, "probability": round(candidate.probability, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model folders")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="the recipe whose held-out documents are used")
    parser.add_argument("--tokens", type=int, default=65_536, help="maximum held-out tokens of each source")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    options = parser.parse_args()
    try:
        recipe = load(PretrainRecipe, options.recipe)
        found = {str(folder): measure(folder, recipe, options.tokens, options.device) for folder in options.models}
    except ModernBertError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(held_out_table(found)))
    for name, figures in found.items():
        print(f"\n{name}: {figures['parameters']:,} parameters, {figures['bytes']:,} bytes")
        for sentence in figures["sentences"]:
            mark = (
                "1"
                if sentence["answer"] == sentence["best"][0]
                else "5"
                if sentence["answer"] in sentence["best"]
                else "-"
            )
            print(f"  {mark} {sentence['text']} {sentence['answer']}: {', '.join(sentence['best'])}")
    if options.output:
        with atomic_write(options.output) as partial:
            partial.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
