"""The lengths of the three phases for a given time, as overrides of `modernbert pretrain`.

python recipes/english-mini/phases.py --seconds 270 --speed 2500000
python recipes/english-mini/phases.py --seconds 270 --run output/english-mini/trial    at the speed of a short run
"""

import argparse
import sys
from pathlib import Path
from statistics import median

from modernbert.config import load
from modernbert.errors import ModernBertError
from modernbert.run_metrics import Metrics
from modernbert.train.recipe import PretrainRecipe

RECIPE = Path(__file__).parent / "pretrain.toml"
RESERVE = 0.93  # the rest is for validation, checkpoints, the first steps and rows of other lengths


def overrides(recipe: PretrainRecipe, tokens: int) -> list[str]:
    """The phases in the proportions of the recipe, with `tokens` in total. Warm-ups are scaled too."""
    factor = tokens / sum(phase.tokens for phase in recipe.phases.values())
    found = [f"phases.{name}.tokens={round(phase.tokens * factor)}" for name, phase in recipe.phases.items()]
    if factor < 1:
        name, first = next(iter(recipe.phases.items()))
        found.append(f"phases.{name}.schedule.warmup_tokens={round(first.schedule.warmup_tokens * factor)}")
        if first.batch_tokens.start is not None:
            found.append(f"phases.{name}.batch_tokens.warmup_tokens={round(first.batch_tokens.warmup_tokens * factor)}")
    return found


def speed_of(run: Path) -> float:
    """Tokens per second of the second half of a run; in the first half, shapes are compiled.

    Raises:
        SystemExit: it has reported nothing yet.
    """
    speeds = [line["tokens_per_second"] for line in Metrics(run / "metrics.jsonl").read() if "loss" in line]
    if not speeds:
        sys.exit(f"phases: {run} has reported no speed; let it run longer, with a smaller run.log_every_steps.")
    return median(speeds[len(speeds) // 2 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="the time of the complete training")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--speed", type=float, help="tokens per second")
    given.add_argument("--run", type=Path, help="a run directory whose speed is used")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    options = parser.parse_args()
    try:
        recipe = load(PretrainRecipe, options.recipe)
    except ModernBertError as error:
        sys.exit(f"phases: {error}")
    speed = options.speed or speed_of(options.run)
    print(*overrides(recipe, round(RESERVE * options.seconds * speed)))


if __name__ == "__main__":
    main()
