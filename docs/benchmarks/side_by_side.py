"""Speed of an encoder alone and beside a second process, with and without the limit on spinning threads.

python docs/benchmarks/side_by_side.py --seconds 10 --rounds 3

Each process runs an encoder of 8 layers on as many threads as there are cores. "limited" is what `import modernbert`
sets (docs/processes.md); "unlimited" is what OpenMP does by itself.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time

SETTINGS = ("limited", "unlimited")
NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")


def tokens_per_second(seconds: float, spinning: str) -> float:
    if spinning == "limited":
        importlib.import_module("modernbert")  # sets the limit, unless torch is loaded already
    import torch

    from modernbert.model.config import EncoderConfig
    from modernbert.model.encoder import Encoder
    from modernbert.packed import Sequences

    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=8192, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=768
    )
    encoder = Encoder(config).eval()
    sequences = Sequences.from_lengths([128] * 8)
    ids = torch.randint(8192, (8 * 128,))
    with torch.inference_mode():
        encoder(ids, sequences)
        print("ready", flush=True)
        sys.stdin.readline()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            encoder(ids, sequences)
            done += len(ids)
        return done / (time.perf_counter() - start)


def measure(processes: int, seconds: float, spinning: str) -> list[float]:
    command = [sys.executable, __file__, "--child", spinning, "--seconds", str(seconds)]
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    children = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return [float(child.communicate()[0]) for child in children]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in alternation")
    parser.add_argument("--child", choices=SETTINGS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(tokens_per_second(given.seconds, given.child))
        return
    alone: dict[str, list[float]] = {name: [] for name in SETTINGS}
    beside: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(given.rounds):
        for name in SETTINGS:
            alone[name] += measure(1, given.seconds, name)
            beside[name] += measure(2, given.seconds, name)
    print("| spinning | alone, tokens/s | two at once, tokens/s each | of the fair share |\n|---|---:|---:|---:|")
    for name in SETTINGS:
        one, two = statistics.median(alone[name]), statistics.median(beside[name])
        print(f"| {name} | {one:,.0f} | {two:,.0f} | {2 * two / one:.0%} |")


if __name__ == "__main__":
    main()
