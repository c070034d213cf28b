import gzip
import json
import pickle

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from modernbert.errors import DataError
from modernbert.tasks.texts import read_texts_with_labels
from modernbert.text.documents import Document, Skipped, find_files, read_documents, read_texts, take_bytes
from modernbert.text.opening import UnreadableError

LINES = b'{"text": "one"}\nnot json\n{"title": "no text"}\n{"text": "  "}\n{"text": "\xff"}\n\n[1]\n{"text": "two"}\n'
REASONS = ["broken line", "not a text", "empty text", "not UTF-8", "not a text"]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_invalid_json_lines_are_reported_and_reading_continues(tmp_path, ending):
    path = tmp_path / f"x.jsonl{ending}"
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    path.write_bytes(compress(LINES))
    found = list(read_documents(path))
    assert [item.text for item in found if isinstance(item, Document)] == ["one", "two"]
    assert [item.reason for item in found if isinstance(item, Skipped)] == REASONS
    assert found[1].origin == f"{path}:2"


def test_an_unpaired_surrogate_is_skipped_as_no_tokenizer_accepts_it(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"text": "a broken \\ud83d letter"}\n{"text": "a compressed \\ud83d\\ude00 one"}\n'
    )
    skipped, document = read_documents(tmp_path / "x.jsonl")
    assert skipped.reason == "unpaired surrogate"
    assert document.text == "a compressed 😀 one"


@pytest.mark.parametrize(
    ("name", "raw", "texts"),
    [
        ("x.jsonl", b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        ("x.txt", b"\xef\xbb\xbfone\r\ntwo", ["one\r\ntwo"]),
        ("x.json", b'[\n {"text": "one"},\n {"text": "two"}\n]\n', ["one", "two"]),
        ("x.jsonl", b'[\n {"text": "one"},\n {"text": "two"}\n]\n', ["one", "two"]),
        ("x.json", b'[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
        ("x.json", b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}', ["one", "two"]),
        ("x.json", b'{\n "text": "one"\n}\n', ["one"]),
        ("x.csv", b'\xef\xbb\xbftext,label\none,red\n"two, and\nmore",green\n', ["one", "two, and\nmore"]),
        ("x.tsv", b"label\ttext\nred\tone\n", ["one"]),
        ("x.csv.gz", gzip.compress(b"label,text\nred,one\n", mtime=0), ["one"]),
    ],
)
def test_a_corpus_reads_the_formats_of_labelled_data(tmp_path, name, raw, texts):
    (tmp_path / name).write_bytes(raw)
    assert [one.text for one in read_documents(tmp_path / name)] == texts
    if not name.endswith(".txt"):
        assert [one.text for one in read_texts_with_labels(tmp_path / name, label=None)] == texts


def test_invalid_records_of_other_formats_are_reported(tmp_path):
    def reasons(name, raw):
        (tmp_path / name).write_bytes(raw)
        return [one.reason if isinstance(one, Skipped) else one.text for one in read_documents(tmp_path / name)]

    assert reasons("x.csv", b"text,label\none,a\ntwo\n\xff,b\n") == ["one", "wrong number of columns", "not UTF-8"]
    assert reasons("y.csv", b'text,label\none,a\n"two,a\n') == ["one", "quotation marks"]
    assert reasons("x.json", b'[{"text": "one"}, 3, {"text": nothing}]') == ["one", "not a text", "broken file"]
    assert reasons("x.jsonl", b'{"text": \n{"text": "two"}\n') == ["broken line", "two"]
    assert reasons("y.json", b'{"rows":\n[]}') == ["broken file"]


def test_a_read_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(UnreadableError("damaged file", "x is damaged", "x:3")))
    assert (error.reason, str(error), error.origin) == ("damaged file", "x is damaged", "x:3")


def test_a_table_without_the_text_column_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "x.csv").write_text("body,label\none,a\n")
    with pytest.raises(DataError, match=r"no column 'text'; it has body, label\. Name it in text_key, or .* \"text\""):
        list(read_documents(tmp_path / "x.csv"))
    assert [one.text for one in read_documents(tmp_path / "x.csv", text_key="body")] == ["one"]
    assert [one.text for one in read_documents(tmp_path / "x.csv", kind="text")] == ["body,label\none,a\n"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_file_gives_its_readable_documents(tmp_path, ending):
    text = "".join(json.dumps({"text": f"document {i} {i * 7919 % 1000}"}) + "\n" for i in range(5000)).encode()
    compressed = gzip.compress(text) if ending == ".gz" else zstandard.ZstdCompressor().compress(text)
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(compressed[: len(compressed) // 2])
    found = list(read_documents(path))
    assert len(found) < 5001
    if ending == ".gz":
        assert found[-1].reason == "damaged file"
        assert sum(isinstance(item, Document) for item in found) > 100


def test_parquet_columns_are_read_by_name(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"body": ["one", None, "", "two"]}), path)
    found = list(read_documents(path, text_key="body"))
    assert [type(item) for item in found] == [Document, Skipped, Skipped, Document]
    with pytest.raises(DataError, match="no column 'text'; it has body"):
        list(read_documents(path))


def test_a_damaged_parquet_file_is_counted(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 this is none")
    assert [item.reason for item in read_documents(tmp_path / "x.parquet")] == ["damaged file"]


def test_folders_globs_and_modules_are_found_in_order(tmp_path):
    for name in ("b.py", "a.py", "sub/c.py", "notes.txt", ".hidden.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {name}")
    assert [path.name for path in find_files([str(tmp_path)], "**/*.py")] == ["a.py", "b.py", "c.py"]
    assert [path.name for path in find_files([f"{tmp_path}/*.txt"])] == ["notes.txt"]
    assert [path.name for path in find_files(["python:textwrap"])] == ["textwrap.py"]
    assert "decoder.py" in [path.name for path in find_files(["python:json"])]


@pytest.mark.parametrize("path", ["nowhere.txt", "python:no_such_module", "*.nothing"])
def test_a_path_without_a_file_is_refused(path):
    with pytest.raises(DataError, match="There is no file at"):
        find_files([path])


def test_files_without_any_text_are_an_error(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "text"}\n')
    with pytest.raises(DataError, match="is 'text' the name of the text column"):
        list(read_texts([str(tmp_path / "x.jsonl")]))


def test_reading_stops_after_a_number_of_bytes():
    assert list(take_bytes(iter(["ああ", "い", "う"]), 6)) == ["ああ"]
    assert list(take_bytes(iter(["a", "b"]), None)) == ["a", "b"]
