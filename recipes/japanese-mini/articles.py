"""The Japanese articles of the training sets of JaQuAD and of Japanese NER, as JSON lines for a corpus.

    python recipes/japanese-mini/articles.py tasks output/japanese-mini/articles.jsonl

A paragraph of JaQuAD is followed by the questions about it; no answer is written, and nothing of any validation or
test set: the Japanese NER is cut by article as `modernbert evaluate tasks` cuts it.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modernbert.evaluate.tasks import split_entities
from modernbert.files import atomic_write


def jaquad_articles(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("*.json")):
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            paragraphs = [
                "\n".join([paragraph["context"], *(asked["question"] for asked in paragraph["qas"])])
                for paragraph in article["paragraphs"]
            ]
            yield {"id": f"jaquad/{article['title']}", "title": article["title"], "text": "\n\n".join(paragraphs)}


def entity_articles(data: Path) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as work:
        lines = (split_entities(data, Path(work) / "cut") / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts: dict[str, list[str]] = {}
    for line in lines:
        record = json.loads(line)
        texts.setdefault(str(record["curid"]), []).append(record["text"])
    for curid, parts in texts.items():
        yield {"id": f"ner/{curid}", "title": "", "text": "\n".join(parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="the folder of jaquad and ja_ner_wikipedia")
    parser.add_argument("output", type=Path, help="the JSON lines to write")
    given = parser.parse_args()
    found = [*jaquad_articles(given.tasks / "jaquad" / "train"), *entity_articles(given.tasks)]
    with atomic_write(given.output) as partial:
        partial.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found), encoding="utf-8")
    print(f"{given.output}: {len(found):,} articles, {sum(len(each['text']) for each in found):,} characters")


if __name__ == "__main__":
    main()
