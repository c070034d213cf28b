"""Pairs of related sentences, without their labels, as JSON lines for a corpus.

    python recipes/mini-pairs/pairs.py tasks/glue output/mini-pairs/pairs.jsonl

They are the training sets of MRPC, RTE and STS-B; of STS-B without MSRpar, whose sentences are those of all sets of
MRPC. A masked word of one sentence often stands in the other one, so a model learns to look there.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modernbert.files import atomic_write
from modernbert.text.records import Record, Source, read_records


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for record in read_records(Source(path=str(path), literal_quotes=True)):
        if isinstance(record, Record):
            yield record.values


def pairs(glue: Path) -> Iterator[tuple[str, str, str]]:
    for number, row in enumerate(rows(glue / "MRPC" / "train.tsv")):
        yield f"mrpc/{number}", row["#1 String"], row["#2 String"]
    for number, row in enumerate(rows(glue / "RTE" / "train.tsv")):
        yield f"rte/{number}", row["sentence1"], row["sentence2"]
    for number, row in enumerate(rows(glue / "STS-B" / "train.tsv")):
        if row["filename"] != "MSRpar":
            yield f"sts-b/{number}", row["sentence1"], row["sentence2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="the folder of MRPC, RTE and STS-B")
    parser.add_argument("output", type=Path, help="the JSON lines to write")
    given = parser.parse_args()
    lines = [
        json.dumps({"id": name, "text": f"{one}\n{other}"}, ensure_ascii=False)
        for name, one, other in pairs(given.glue)
    ]
    with atomic_write(given.output) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{given.output}: {len(lines):,} pairs")


if __name__ == "__main__":
    main()
