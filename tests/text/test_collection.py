"""Collections of every format are equal, and errors have file and line."""

import gzip
import json
from pathlib import Path

import pytest

from modernbert.errors import DataError
from modernbert.text.collection import Collection, read_collection

DOCUMENTS = {"1": ("Wings", "A wing in a slipstream ."), "2": ("", "Boundary layers."), "3": ("Heat", "Heat in slabs.")}
QUERIES = {"1": "lift of wings", "2": "heat conduction"}
JUDGED = [("1", "1", 1), ("1", "2", 1), ("2", "3", 1), ("2", "1", 0)]


def beir(folder: Path, judged=JUDGED, documents=DOCUMENTS, queries=QUERIES, split: str = "test") -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": name, "title": title, "text": text} for name, (title, text) in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    downloads = [{"_id": name, "text": text} for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in downloads))
    rows = "".join(f"{query}\t{document}\t{score}\n" for query, document, score in judged)
    (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def smart(folder: Path) -> Path:
    folder.mkdir()
    texts = {name: f"{title} {text}" for name, (title, text) in DOCUMENTS.items()}  # the text repeats the title
    (folder / "cran.all").write_text(
        "".join(f".I {name}\n.T\n{DOCUMENTS[name][0]}\n.A\nsomebody\n.W\n{text}\n" for name, text in texts.items())
    )
    (folder / "cran.qry").write_text("".join(f".I 00{name}\n.W\n{text}\n" for name, text in QUERIES.items()))
    grades = {1: 3, 0: -1}
    (folder / "cranqrel").write_text("".join(f"{q} {d} {grades[grade]} \n" for q, d, grade in JUDGED))
    return folder


def trec(folder: Path) -> Path:
    folder.mkdir()
    (folder / "docs.trec").write_text(
        "".join(
            f"<DOC>\n<DOCNO>{name}</DOCNO>\n<TITLE>{title}</TITLE>\n<TEXT>\n{text}\n</TEXT>\n</DOC>\n"
            for name, (title, text) in DOCUMENTS.items()
        )
    )
    (folder / "topics").write_text(
        "".join(f"<top>\n<num> Number: {name}\n<title> {text}\n</top>\n" for name, text in QUERIES.items())
    )
    (folder / "qrels").write_text("".join(f"{q} 0 {d} {grade}\n" for q, d, grade in JUDGED))
    return folder


def parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    tables = {
        "corpus": {"_id": list(DOCUMENTS), "text": [text for _, text in DOCUMENTS.values()],
                   "title": [title for title, _ in DOCUMENTS.values()]},
        "queries": {"_id": list(QUERIES), "text": list(QUERIES.values())},
        "qrels": {"query-id": [q for q, _, grade in JUDGED if grade], "corpus-id": [d for _, d, g in JUDGED if g]},
    }  # fmt: skip
    for name, columns in tables.items():
        (folder / name).mkdir(parents=True)
        files.write_table(pyarrow.table(columns), folder / name / "train-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("make", [beir, smart, trec, parquet])
def test_every_format_gives_the_same_collection(make, tmp_path: Path) -> None:
    found = read_collection(make(tmp_path / "collection"))
    assert {name: (one.title, one.text) for name, one in found.documents.items()} == DOCUMENTS
    assert dict(found.queries) == QUERIES
    assert found.relevant("1") == ["1", "2"]
    assert found.relevant("2") == ["3"]


def test_mldr_judgements_are_read_from_the_queries_file(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"docid": f"doc-{n}", "text": text}) + "\n" for n, (_, text) in DOCUMENTS.items())
    positive = [{"docid": "doc-3", "text": "Heat in slabs."}]
    with gzip.open(tmp_path / "dev.jsonl.gz", "wt") as file:
        line = {"query_id": "q-1", "query": "heat?", "positive_passages": positive, "negative_passages": []}
        file.write(json.dumps(line) + "\n")
    found = read_collection(tmp_path, "dev")
    assert found.relevant("q-1") == ["doc-3"]


def test_queries_are_named_by_their_order_if_the_judgements_do_so(tmp_path: Path) -> None:
    folder = smart(tmp_path / "cranfield")
    (folder / "cran.qry").write_text(".I 004\n.W\nlift of wings\n.I 008\n.W\nheat conduction\n")
    assert dict(read_collection(folder).queries) == QUERIES


def test_a_list_of_relevant_documents_gives_grade_1(tmp_path: Path) -> None:
    folder = smart(tmp_path / "cisi")
    (folder / "cranqrel").unlink()
    (folder / "CISI.REL").write_text("1\t1\t0\t0.000000\n2\t3\t0\t0.000000\n")
    assert read_collection(folder).judgements == {"1": {"1": 1}, "2": {"3": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judged": [("1", "9", 1)]}, r"qrels/test.tsv:2: there is no document '9'"),
        ({"judged": [("7", "1", 1)]}, r"qrels/test.tsv:2: there is no query '7'"),
        ({"judged": [("1", "1", 1), ("2", "1", 0)]}, r"qrels/test.tsv:3: the query '2' has no relevant document"),
        ({"judged": [("1", "1", "NaN")]}, r"qrels/test.tsv:2: the score 'NaN' should be a whole number"),
        ({"documents": DOCUMENTS | {"2": ("", "  ")}}, r"corpus.jsonl:2: the document '2' is empty"),
        ({"queries": QUERIES | {"2": ""}}, r"queries.jsonl:2: the query '2' is empty"),
    ],
)
def test_an_invalid_record_is_an_error_with_file_and_line(changes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_collection(beir(tmp_path / "bad", **changes))


def test_invalid_records_are_counted_with_skip_bad(tmp_path: Path) -> None:
    judged = [*JUDGED, ("1", "9", 1), ("2", "4", 1)]
    folder = beir(tmp_path / "bad", judged=judged, documents=DOCUMENTS | {"4": ("", "")})
    found = read_collection(folder, skip_bad=True)
    assert found.skipped == {"empty passage": 1, "unknown document": 1}
    assert found.relevant("2") == ["3"]


def test_a_folder_without_a_collection_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(DataError, match="no documents and no queries and no judgements were found"):
        read_collection(tmp_path)
    with pytest.raises(DataError, match=r"has no qrels/dev.tsv; there are test"):
        read_collection(beir(tmp_path / "beir"), "dev")


def test_an_unknown_hub_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"There is no collection 'zeta-alpha-ai/NanoNothing'.*no network"):
        read_collection("zeta-alpha-ai/NanoNothing")


def test_mldr_and_nanobeir_are_downloaded_from_the_hub_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    downloads: list[tuple[str, list[str]]] = []

    def download(name: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        assert repo_type == "dataset"
        downloads.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    parquet(tmp_path)
    assert isinstance(read_collection("zeta-alpha-ai/NanoSciFact"), Collection)
    mldr = tmp_path / "mldr-v1.0-en"
    mldr.mkdir()
    (mldr / "corpus.jsonl").write_text('{"docid": "a", "text": "b"}\n')
    (mldr / "test.jsonl").write_text('{"query_id": "q", "query": "b?", "positive_passages": [{"docid": "a"}]}\n')
    assert read_collection("Shitao/MLDR:en").relevant("q") == ["a"]
    assert downloads[1] == ("Shitao/MLDR", ["mldr-v1.0-en/corpus.jsonl.gz", "mldr-v1.0-en/test.jsonl.gz"])
