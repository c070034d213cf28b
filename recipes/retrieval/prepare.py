"""Write the collections of the retrieval table as BEIR folders, with training, validation and test queries.

python recipes/retrieval/prepare.py DATA OUTPUT: DATA holds ir/cranfield, ir/cisi, ir/vaswani, cosqa and jaquad. Which
query is for what is a function of its name alone. Queries of Vaswani are in capitals and are written small; nothing
else is changed. In JaQuAD a question asks for its paragraph among all paragraphs: questions of its development set are
for test, those of a tenth of its training articles for validation. OUTPUT/code-pairs.jsonl are pairs without judgement
of CoSQA's functions: the first sentence of a docstring asks for its function, which keeps the docstring in one case of
ten.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from modernbert.text.collection import Collection, Document, read_collection

SPLITS = {  # number of training and validation queries; the others are for test
    "cranfield": (90, 35),
    "vaswani": (33, 20),
    "cisi": (0, 0),
}


def order(name: str) -> str:
    return hashlib.sha256(f"retrieval {name}".encode()).hexdigest()


def write(
    folder: Path,
    documents: Mapping[str, Document],
    queries: Mapping[str, str],
    qrels: dict[str, dict[str, dict[str, int]]],
) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for name, one in documents.items():
            file.write(json.dumps({"_id": name, "title": one.title, "text": one.text}, ensure_ascii=False) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for name, text in queries.items():
            file.write(json.dumps({"_id": name, "text": text}, ensure_ascii=False) + "\n")
    for split, judged in qrels.items():
        if judged:
            lines = [f"{query}\t{document}\t{grade}" for query in judged for document, grade in judged[query].items()]
            text = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
            (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
            print(f"{folder.name} {split}: {len(judged)} queries")


def classic(collection: Collection, folder: Path, lower: bool) -> None:
    learned, chosen = SPLITS[folder.name]
    names = sorted(collection.queries, key=order)
    parts = {
        "train": names[:learned],
        "validation": names[learned : learned + chosen],
        "test": names[learned + chosen :],
    }
    queries = {name: text.lower() if lower else text for name, text in collection.queries.items()}
    qrels = {split: {name: collection.judgements[name] for name in part} for split, part in parts.items()}
    write(folder, collection.documents, queries, qrels)


def cosqa(source: Path, folder: Path) -> None:
    codes = json.loads((source / "code_idx_map.txt").read_text(encoding="utf-8"))
    documents = {str(number): Document("", code) for code, number in codes.items() if code.strip()}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {"train": {}, "validation": {}, "test": {}}
    for part in ("dev", "test"):
        for one in json.loads((source / f"cosqa-retrieval-{part}-500.json").read_text(encoding="utf-8")):
            split = "test" if part == "test" else "validation" if int(order(one["idx"]), 16) % 5 == 0 else "train"
            queries[one["idx"]] = one["doc"]
            qrels[split][one["idx"]] = {str(one["retrieval_idx"]): 1}
    for one in json.loads((source / "cosqa-dev.json").read_text(encoding="utf-8")):
        if one["label"] == 1 and one["code"] in codes and one["idx"] not in queries:
            queries[one["idx"]] = one["doc"]
            qrels["train"][one["idx"]] = {str(codes[one["code"]]): 1}
    write(folder, documents, queries, qrels)


def jaquad(source: Path, folder: Path) -> None:
    documents: dict[str, Document] = {}
    numbers: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {"train": {}, "validation": {}, "test": {}}
    for part in ("train", "dev"):
        for path in sorted((source / part).glob("*.json")):
            for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
                held_out = int(order(article["title"]), 16) % 10 == 0
                split = "test" if part == "dev" else "validation" if held_out else "train"
                for paragraph in article["paragraphs"]:
                    number = numbers.setdefault(paragraph["context"], f"{part}-{len(numbers)}")
                    documents[number] = Document("", paragraph["context"])
                    for asked in paragraph["qas"]:
                        queries[asked["id"]] = asked["question"]
                        qrels[split][asked["id"]] = {number: 1}
    write(folder, documents, queries, qrels)


def code_pairs(folder: Path, path: Path) -> None:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
            name, code = json.loads(line)["_id"], json.loads(line)["text"]
            try:
                [function] = ast.parse(code).body
            except (SyntaxError, ValueError):
                continue  # Python 2, or truncated
            asked = ast.get_docstring(function) if isinstance(function, ast.FunctionDef) else None
            if not asked:
                continue
            asked = " ".join(asked.split("\n\n")[0].split()).split(". ")[0]
            first = function.body[0]
            lines = code.split("\n")
            without = "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
            answer = code if int(order(name), 16) % 10 == 0 else without
            if len(asked.split()) >= 3 and first.lineno > function.lineno:
                file.write(json.dumps({"query": asked, "positive": answer}, ensure_ascii=False) + "\n")
                count += 1
    print(f"{path.name}: {count} pairs")


def main(data: Path, output: Path) -> None:
    for name in SPLITS:
        collection = read_collection(data / "ir" / name, skip_bad=True)
        classic(collection, output / name, lower=name == "vaswani")
    cosqa(data / "cosqa", output / "cosqa")
    code_pairs(output / "cosqa", output / "code-pairs.jsonl")
    if (data / "jaquad").is_dir():
        jaquad(data / "jaquad", output / "jaquad")
    else:
        print(f"jaquad: left out, because there is no {data / 'jaquad'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
