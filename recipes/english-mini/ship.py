"""Create the model folder of the package from a trained model: weights in int8, figures, model card.

python recipes/english-mini/ship.py                                   output/english-mini/run to .../int8
python recipes/english-mini/ship.py --trained-on "one NVIDIA H100"    says in the card where it was trained
python recipes/english-mini/ship.py --install                         and into the package, if it reaches its target

Every number in the card comes from figures.json beside it, which this script measures, and from the recipe of the run.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from evaluate import CAPITAL, MASK_RATIO, MAX_LENGTH, among, held_out_table, knows_the_capital, measure
from modernbert.config import load
from modernbert.errors import ModernBertError
from modernbert.files import atomic_directory, atomic_write
from modernbert.model import MaskedLM
from modernbert.model.packaged import FOLDER
from modernbert.run_metrics import Metrics
from modernbert.stream.shards import Shards
from modernbert.train.recipe import PretrainRecipe

ATTRIBUTION = Path(__file__).parent / "ATTRIBUTION.md"
NOTICE = Path(__file__).parents[2] / "NOTICE"
STORED = "weights in int8"  # the name of the packaged model in the figures
MOST_BYTES = 16_000_000
MOST_PARAMETERS = 12_000_000
SENTENCES = 30  # of the fifty, the answer among the five best


def figures_of(run: Path, model: Path, stored: Path, tokens: int, trained_on: str) -> dict[str, Any]:
    """The figures of the card: recipe and time of a run, and quality of the model before and after int8."""
    recipe = load(PretrainRecipe, run / "recipe.toml")
    config = MaskedLM.from_pretrained(stored).config
    lines = [line for line in Metrics(run / "metrics.jsonl").read() if "loss" in line]
    done = [0, *(line["tokens"] for line in lines)]
    spent = [(b - a) / line["tokens_per_second"] for a, b, line in zip(done, done[1:], lines, strict=False)]
    return {
        "shape": {
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "intermediate": config.intermediate_size,
            "heads": config.num_attention_heads,
            "vocabulary": config.vocab_size,
            "reads": config.max_position_embeddings,
        },
        "data": {
            name: {"documents": (shards := Shards.open(data.path)).num_documents, "tokens": shards.num_tokens}
            for name, data in recipe.data.items()
        },
        "phases": {name: phase.model_dump(mode="json") for name, phase in recipe.phases.items()},
        "held_out_fraction": recipe.validation.fraction,
        "trained_on": trained_on,
        "tokens": done[-1],
        "seconds": sum(spent),
        "models": {"as trained": measure(model, recipe, tokens), STORED: measure(stored, recipe, tokens)},
    }


def card(figures: dict[str, Any]) -> str:
    """The README.md of the folder, in Markdown."""
    stored, shape = figures["models"][STORED], figures["shape"]
    total = sum(phase["tokens"] for phase in figures["phases"].values())
    lines = [
        "# english-mini",
        "",
        f"A masked language model for English of the ModernBERT architecture: {stored['parameters']:,} parameters in "
        f"{shape['layers']} layers, {shape['hidden']} wide ({shape['heads']} heads, {shape['intermediate']} in the "
        f"feed-forward part), {shape['vocabulary']:,} tokens, texts of up to {shape['reads']:,} tokens. It comes with "
        "the package `modernbert`, so that there is something to try and a start for fine-tuning without a network.",
        "",
        "```python",
        "from modernbert import FillMask",
        "",
        f'FillMask.from_pretrained()("{CAPITAL}")',
        "```",
        "",
        "Matrices are stored in int8 with one scale for each row, and computed in fp32 or bf16. Only `modernbert` "
        "reads this. `MaskedLM.from_pretrained(folder).save_pretrained(other)` writes what `transformers` loads.",
        "",
        "## Data",
        "",
        "| source | documents | tokens |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {data['documents']:,} | {data['tokens']:,} |" for name, data in figures["data"].items()]
    lines += [
        "",
        f"Of each source {100 * figures['held_out_fraction']:g} % of the documents (at least one) were held out.",
        "",
        "## Recipe",
        "",
        f"`recipes/english-mini/pretrain.toml`: from random weights, {figures['tokens']:,} tokens"
        + (f" in {figures['seconds'] / 60:.1f} minutes" if math.isfinite(figures["seconds"]) else "")
        + (f" on {figures['trained_on']}." if figures["trained_on"] else "."),
        "",
        "| phase | tokens | of all | tokens of a row | tokens of a batch | masked | rate | mixture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, phase in figures["phases"].items():
        schedule, batch = phase["schedule"], phase["batch_tokens"]
        parts = sum(phase["mixture"].values())
        mixture = ", ".join(f"{source} {100 * part / parts:.0f} %" for source, part in phase["mixture"].items())
        rate = f"{schedule['peak_lr']:g}" + (", falling as 1 - sqrt" if schedule["kind"] == "one_minus_sqrt" else "")
        size = f"{batch['tokens']:,}" + (f", from {batch['start']:,}" if batch["start"] else "")
        lines.append(
            f"| {name} | {phase['tokens']:,} | {100 * phase['tokens'] / total:.0f} % | {phase['max_length']:,} "
            f"| {size} | {100 * phase['mask_ratio']:.0f} % | {rate} | {mixture} |"
        )
    lines += [
        "",
        "## Figures",
        "",
        f"Held-out documents in rows of {MAX_LENGTH} tokens, {100 * MASK_RATIO:.0f} % masked; the sentences are those "
        "of `recipes/mini/cloze.jsonl`, written before any training.",
        "",
        *held_out_table(figures["models"]),
        "",
        "## The fifty sentences",
        "",
        "| sentence | answer | five best, with " + STORED + " |",
        "|---|---|---|",
    ]
    for sentence in stored["sentences"]:
        words = [word.replace("|", "\\|") for word in sentence["best"]]  # a bar would end the table cell
        best = ", ".join(f"**{word}**" if word == sentence["answer"] else word for word in words)
        lines.append(f"| {sentence['text']} | {sentence['answer']} | {best} |")
    lines += [
        "",
        "## Limits",
        "",
        "It is small and has read little: it knows common facts and often confuses rare ones, and its probabilities do "
        "not tell which. It knows English prose alone, no code and no other language. It repeats the prejudices of its "
        "texts; the books are from earlier centuries. Do not take what it fills in for knowledge.",
        "",
        "## Licence and attribution",
        "",
        ATTRIBUTION.read_text(encoding="utf-8").strip(),
    ]
    return "\n".join(lines) + "\n"


def shortfalls(figures: dict[str, Any]) -> list[str]:
    """The reasons not to package a model, one sentence each."""
    stored = figures["models"][STORED]
    found, count = [], among(stored, 5)
    if stored["parameters"] > MOST_PARAMETERS:
        found.append(f"It has {stored['parameters']:,} parameters; at most {MOST_PARAMETERS:,} are allowed.")
    if stored["bytes"] > MOST_BYTES:
        found.append(f"Its files have {stored['bytes']:,} bytes; at most {MOST_BYTES:,} are allowed.")
    if count < SENTENCES:
        found.append(f"It has the answer of {count} sentences among the five best; {SENTENCES} are required.")
    if not knows_the_capital(stored):
        found.append(f'" Tokyo" is not among the five best of "{CAPITAL}".')
    return found


def install(stored: Path, package: Path = FOLDER, notice: Path = NOTICE) -> None:
    """Copy the folder into the package, and the attributions into NOTICE."""
    with atomic_directory(package, "config.json") as partial:
        shutil.copytree(stored, partial, dirs_exist_ok=True)
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors writes files that only the user may read
    attribution, text = ATTRIBUTION.read_text(encoding="utf-8").strip(), notice.read_text(encoding="utf-8")
    if attribution not in text:
        with atomic_write(notice) as partial:
            partial.write_text(f"{text.rstrip()}\n\n{attribution}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("output/english-mini/run"))
    parser.add_argument("--model", type=Path, help="the model folder, such as an average. [default: RUN/final]")
    parser.add_argument("--output", type=Path, default=Path("output/english-mini/int8"))
    parser.add_argument("--tokens", type=int, default=65_536, help="maximum held-out tokens of each source")
    parser.add_argument("--trained-on", default="", help="the device, for the card")
    parser.add_argument("--install", action="store_true", help="copy it into the package if it reaches its target")
    options = parser.parse_args()
    try:
        model = options.model or options.run / "final"
        MaskedLM.from_pretrained(model, dtype=torch.float32).save_pretrained(options.output, int8=True)
        figures = figures_of(options.run, model, options.output, options.tokens, options.trained_on)
        for name, text in (
            ("figures.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n"),
            ("README.md", card(figures)),
        ):
            with atomic_write(options.output / name) as partial:
                partial.write_text(text, encoding="utf-8")
        print("\n".join(held_out_table(figures["models"])))
        problems = shortfalls(figures)
        print(*problems or [f"{options.output} reaches the target."], sep="\n")
        if options.install:
            if problems:
                sys.exit(1)
            install(options.output)
            print(f"installed in {FOLDER}; commit it together with NOTICE")
    except ModernBertError as error:
        print(f"ship: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
