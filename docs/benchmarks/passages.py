"""Write the texts of benchmarks: paragraphs or complete articles sampled from files of documents, one per line.

    python docs/benchmarks/passages.py texts/encyclopedia-en.jsonl.gz passages.txt --count 500

The same arguments give the same file. Lines are in random order, so that the first of them are a sample of all.
"""

import argparse
import random
from pathlib import Path

from modernbert.text.documents import read_texts

SHORTEST = 20  # characters; shorter paragraphs are headings


def passages(files: list[str], count: int, whole: bool, seed: int) -> list[str]:
    """A uniform sample of `count` paragraphs, or of articles with spaces instead of line breaks."""
    found = []
    for text in read_texts(files):
        parts = [text] if whole else text.split("\n")
        found += [" ".join(part.split()) for part in parts if len(part) >= SHORTEST]
    return random.Random(seed).sample(found, min(count, len(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="files of documents (.jsonl, .gz, .txt, ...), then the file to write")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--whole", action="store_true", help="complete articles instead of paragraphs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if len(given.files) < 2:
        parser.error("give at least one file of documents, and the file to write")
    *sources, output = given.files
    lines = passages(sources, given.count, given.whole, given.seed)
    Path(output).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{output}: {len(lines):,} texts, {sum(map(len, lines)) / len(lines):,.0f} characters on average")


if __name__ == "__main__":
    main()
