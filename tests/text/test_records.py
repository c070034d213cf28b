"""Records of every format have the same values, and errors have the line."""

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from modernbert.config import parse
from modernbert.errors import ConfigError, DataError
from modernbert.tasks.answer.reading import read_questions
from modernbert.tasks.texts import read_texts_with_labels
from modernbert.tasks.tokens.reading import read_spans
from modernbert.tasks.tokens.tags import Span
from modernbert.text.records import Source, format_of, read_records

ROWS = [("a good one", "1"), ('he said "no', "0"), ("良い映画 😀", "1")]


def write_rows(folder, kind):
    """ROWS as a file of each format, and its source."""
    records = [{"sentence": text, "label": label} for text, label in ROWS]
    if kind in ("csv", "csv.gz"):
        text = "sentence,label\r\n" + "".join('"{}",{}\r\n'.format(t.replace('"', '""'), label) for t, label in ROWS)
        raw = text.encode("utf-8-sig")
        (folder / f"x.{kind}").write_bytes(gzip.compress(raw) if kind.endswith("gz") else raw)
        return Source(path=str(folder / f"x.{kind}"))
    if kind == "tsv":
        (folder / "x.tsv").write_text("sentence\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in ROWS))
        return Source(path=str(folder / "x.tsv"), literal_quotes=True)
    if kind == "headless":
        (folder / "x.tsv").write_text("".join(f"{label}\t*\t{t}\n" for t, label in ROWS))
        return Source(path=str(folder / "x.tsv"), literal_quotes=True, columns=("label", "mark", "sentence"))
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), folder / "x.parquet")
    elif kind == "json":
        (folder / "x.json").write_text(json.dumps(records, ensure_ascii=False, indent=1))
    else:
        (folder / f"x.{kind}").write_text("".join(json.dumps(record) + "\n\n" for record in records))
    return Source(path=str(folder / f"x.{kind}"))


KINDS = ["csv", "csv.gz", "tsv", "headless", "jsonl", "json", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_examples(tmp_path, kind):
    examples = read_texts_with_labels(write_rows(tmp_path, kind), text="sentence")
    assert [(one.text, one.label) for one in examples] == ROWS
    assert [(one.text, one.label) for one in examples] == ROWS  # a second loop reads it again


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_takes_the_first_records(tmp_path, kind):
    source = write_rows(tmp_path, kind).model_copy(update={"limit": 2})
    assert [(one.text, one.label) for one in read_texts_with_labels(source, text="sentence")] == ROWS[:2]


def test_a_file_whose_name_could_be_a_glob_is_that_file(tmp_path):
    for name in ("data[1].csv", "data1.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n")
    for path, names in (("data[1].csv", ["data[1].csv"]), ("data?.csv", ["data1.csv"]), ("data[2].csv", [])):
        try:
            found = [record.values["text"] for record in read_records(Source(path=str(tmp_path / path)))]
        except DataError:
            found = []
        assert found == names


def test_lines_are_counted_over_quoted_line_breaks_and_empty_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"one\ntwo",a\n\nthree,b\n')
    assert [(one.text, one.origin.line) for one in read_texts_with_labels(path)] == [("one\ntwo", 2), ("three", 5)]


def test_a_json_file_with_one_object_a_line_is_read(tmp_path):
    (tmp_path / "x.json").write_text('{"text": "one", "label": 0}\n{"text": "two", "label": 1.0}\n')
    assert [one.label for one in read_texts_with_labels(tmp_path / "x.json")] == ["0", "1"]


def test_an_element_of_a_json_array_has_the_line_where_it_begins(tmp_path):
    (tmp_path / "x.json").write_text('[\n  {"text": "one",\n   "label": "a"},\n\n  {"text": "two", "label": "b"}]\n')
    assert [one.origin.line for one in read_texts_with_labels(tmp_path / "x.json")] == [2, 5]


def test_a_document_longer_than_the_csv_module_allows_is_read(tmp_path):
    (tmp_path / "x.csv").write_text(f'text,label\n"{"long " * 50_000}",a\n')
    [example] = read_texts_with_labels(tmp_path / "x.csv")
    assert len(example.text) == 250_000


def test_a_file_without_a_valid_example_is_an_error_even_with_skip_bad(tmp_path):
    (tmp_path / "x.csv").write_text("sentence,label\nx,a\n")
    with pytest.raises(DataError, match=r"no example that can be used; the first is .*x\.csv:2: there is no column"):
        list(read_texts_with_labels(tmp_path / "x.csv", skip_bad=True))
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="it is empty"):
        list(read_texts_with_labels(tmp_path / "empty.csv"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.csv", b'text,label\n"open,a\nb,c\n', "quotation marks do not match"),
        ("x.csv", b"text,text\na,b\n", "two columns have the same name"),
        ("x.csv", b"text,label\n\xff,a\n", r"x\.csv:2 is not UTF-8"),
        ("x.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 9999, mtime=0)[:-30], "is damaged after line"),
        ("x.json", b"[{", "cannot be read as JSON"),
        ("x.json", b'{"rows":\n[]}', "neither an array"),
        ("x.parquet", b"PAR1", "is damaged"),
        ("x.doc", b"text", "does not indicate its format"),
    ],
    ids=[
        "quotes", "repeated column", "encoding", "cut gzip", "cut json", "no rows", "cut parquet", "unknown format",
    ],
)  # fmt: skip
def test_an_unreadable_file_is_an_error_with_its_reason(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(read_texts_with_labels(tmp_path / name, skip_bad=True))


@pytest.mark.parametrize(
    "text",
    ['text\tlabel\n"great\tpos\nit was "\tneg\nok\tpos\n', 'label\ttext\npos\t"great\nneg\tit was "\npos\tok\n'],
)
def test_a_quotation_mark_that_would_join_two_lines_of_a_tsv_is_refused(tmp_path, text):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DataError, match=r"x\.tsv:2: the quotation marks do not match .*line 3.* or set literal_quotes"):
        list(read_texts_with_labels(tmp_path / "x.tsv"))
    literal = Source(path=str(tmp_path / "x.tsv"), literal_quotes=True)
    assert [(one.text, one.label) for one in read_texts_with_labels(literal)] == [
        ('"great', "pos"),
        ('it was "', "neg"),
        ("ok", "pos"),
    ]


def test_quoted_line_breaks_and_tabs_of_a_tsv_are_read(tmp_path):
    (tmp_path / "x.tsv").write_text('text\tlabel\n"one\nmore"\ta\n"two\ttabs"\tb\n')
    assert [one.text for one in read_texts_with_labels(tmp_path / "x.tsv")] == ["one\nmore", "two\ttabs"]


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("x.csv", b"text,label\rfire,red\rgrass,green\r", "lines end with a carriage return"),
        ("x.tsv", b"text\tlabel\rfire\tred", "lines end with a carriage return"),
        ("x.csv", b"text,label\nfire\rsea,red\n", "x\\.csv:2: there is a carriage return .* inside the line"),
        ("x.conll", b"Anna B-PER\rsleeps O\r", "lines end with a carriage return"),
        ("x.jsonl", b'{"text": "a", "label": "b"}\r{"text": "c", "label": "d"}\r', "lines end with a carriage return"),
    ],
)
def test_lines_that_end_with_carriage_returns_are_an_error_with_this_reason(tmp_path, name, raw, sentence):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=sentence):
        list(read_spans(tmp_path / name) if name == "x.conll" else read_texts_with_labels(tmp_path / name))


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_first_line_with_the_delimiter_sets_it(tmp_path, quote):
    (tmp_path / "x.csv").write_bytes(f"\ufeff{quote}sep=;{quote}\r\ntext;label\r\nfire, blood;red\r\n;\r\n".encode())
    assert next(iter(read_texts_with_labels(tmp_path / "x.csv"))).text == "fire, blood"
    with pytest.raises(DataError, match=r"x\.csv:4: text is empty"):
        list(read_texts_with_labels(tmp_path / "x.csv"))


def test_class_names_in_the_schema_of_a_parquet_file_are_read(tmp_path):
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
        "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "ner_tags": {"feature": {"names": ["O", "B-X"], "_type": "ClassLabel"}, "_type": "Sequence"},
        "old_tags": [{"names": {"0": "O", "1": "B-Y"}, "_type": "ClassLabel"}],
    }
    rows = [{"text": "one", "label": 1, "tokens": ["a", "b"], "ner_tags": [0, 1], "old_tags": [1, 0]}]
    table = pyarrow.Table.from_pylist(rows)
    path = tmp_path / "x.parquet"
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
    )
    assert [one.label for one in read_texts_with_labels(path)] == ["good"]
    assert [one.spans for one in read_spans(path, words="tokens", tags="ner_tags")] == [(Span(2, 3, "X"),)]
    assert [one.spans for one in read_spans(path, words="tokens", tags="old_tags")] == [(Span(0, 1, "Y"),)]
    parquet.write_table(table, path)
    assert [one.label for one in read_texts_with_labels(path)] == ["1"]
    with pytest.raises(DataError, match="ner_tags holds numbers, and the file has no names for them"):
        list(read_spans(path, words="tokens", tags="ner_tags"))


def test_a_line_with_another_number_of_columns_is_an_error(tmp_path):
    (tmp_path / "x.tsv").write_text("text\tlabel\na\tb\tc\nd\te\n")
    with pytest.raises(DataError, match=r"x\.tsv:2: there are 3 columns where 2 are expected \(text, label\)"):
        list(read_texts_with_labels(tmp_path / "x.tsv"))
    examples = read_texts_with_labels(tmp_path / "x.tsv", skip_bad=True)
    assert [one.text for one in examples] == ["d"]
    assert examples.skipped == {"wrong number of columns": 1}
    wider = Source(path=str(tmp_path / "x.tsv"), further_columns=True)
    assert [one.label for one in read_texts_with_labels(wider)] == ["b", "e"]


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("x.csv", "text;label\na;b\n", r"there are text;label; ';' seems .* set delimiter, such as .*delimiter=\";\""),
        ("x.csv", "text\tlabel\na\tb\n", r"set delimiter, such as data\.train\.delimiter=\"\\t\""),
        ("x.csv", "text|label\na|b\n", r"set delimiter, such as data\.train\.delimiter=\"\|\""),
        ("x.csv", "text;label\na, with a comma;b\n", r"2 columns where 1 .* such as data\.train\.delimiter=\";\""),
        ("x.tsv", "text,label\na,b\n", r"set delimiter, such as data\.train\.delimiter=\",\""),
        ("x.csv", "Text,Label\na,b\n", r"there are Text, Label; did you mean 'Text'\? Name .* data\.text, data\.label"),
        ("x.jsonl", '{"Text": "a", "label": "b"}\n', "did you mean 'Text'"),
        ("x.jsonl", '{"body;all": "a"}\n', r"there are body;all; name the columns .* of a recipe\.$"),
        ("x.csv", "a,b\nc,d\n", r"there are a, b; name .* data\.text, .* data\.train\.columns where .* no header\.$"),
    ],
)
def test_a_missing_column_is_an_error_with_the_remedy(tmp_path, name, content, remedy):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}:[12]: .*{remedy}"):
        list(read_texts_with_labels(tmp_path / name))


@pytest.mark.parametrize("literal_quotes", [False, True])
def test_spaces_around_names_in_a_header_are_removed(tmp_path, literal_quotes):
    (tmp_path / "x.csv").write_text("text , label\na,b\n")
    source = Source(path=str(tmp_path / "x.csv"), literal_quotes=literal_quotes)
    assert [(one.text, one.label) for one in read_texts_with_labels(source)] == [("a", "b")]


def test_a_delimiter_is_one_character():
    for wrong in ("", ";;", "\\t", '"', "\n"):
        with pytest.raises(ConfigError, match=r"delimiter: give one character, such as ; or \|"):
            parse(Source, {"path": "x"}, "here", [f"delimiter={json.dumps(wrong)}"])
    assert Source(path="x", delimiter=", ", literal_quotes=True).delimiter == ", "


def test_records_are_read_lazily(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one", "label": "a"}\nbroken\n')
    assert next(iter(read_texts_with_labels(tmp_path / "x.jsonl"))).text == "one"


def test_a_hub_data_set_gives_class_names(tmp_path, monkeypatch):
    """A folder of Parquet files loads as a data set does; its schema carries the names, as on the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"]),
         "words": datasets.List(datasets.Value("string")),
         "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"]))}
    )  # fmt: skip
    rows = {"text": ["one", "two"], "label": [1, 0], "words": [["one"], ["two"]], "tags": [[1], [0]]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    source = Source(path=str(tmp_path / "set"), format="hub")
    assert [one.label for one in read_texts_with_labels(source)] == ["good", "bad"]
    assert [one.spans for one in read_spans(source, words="words", tags="tags")] == [(Span(0, 3, "X"),), ()]
    with pytest.raises(DataError, match="cannot be loaded"):
        list(read_texts_with_labels(Source(path=str(tmp_path / "set"), format="hub", split="nowhere")))


def test_the_task_files_have_no_invalid_line(shared):
    tasks = shared / "data" / "tasks"
    if not tasks.is_dir():
        pytest.skip("the task files are not beside this checkout")
    sst = Source(path=str(tasks / "glue" / "SST-2" / "train.tsv"), literal_quotes=True)
    assert sum(1 for _ in read_texts_with_labels(sst, text="sentence", labels=("0", "1"))) == 67_349
    assert sum(1 for _ in read_spans(Source(path=str(tasks / "conll2003" / "valid.txt"), format="conll"))) == 3_250
    assert sum(1 for _ in read_spans(tasks / "ja_ner_wikipedia" / "ner.json")) == 5_343
    assert sum(1 for _ in read_questions(tasks / "jaquad" / "dev")) == 3_939


@pytest.mark.parametrize("name", ["reviews.xlsx", "Reviews.XLS", "reviews.ods"])
def test_a_spreadsheet_is_an_error_with_the_remedy(name, tmp_path):
    with pytest.raises(DataError, match="is a spreadsheet, which cannot be read; save it as CSV"):
        format_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"), [("x.csv", "text,label\n東京は晴れ,良い\n"), ("x.conll", "東京 B-P\n晴れ O\n")]
)
def test_files_with_another_encoding_are_read(name, text, tmp_path):
    (tmp_path / name).write_bytes(text.encode("cp932"))
    (tmp_path / f"utf-8-{name}").write_bytes(text.encode())
    named = [one.values for one in read_records(Source(path=str(tmp_path / name), encoding="cp932"))]
    assert named == [one.values for one in read_records(Source(path=str(tmp_path / f"utf-8-{name}")))]
    assert "東京" in str(named[0])
    with pytest.raises(DataError, match="is not UTF-8; convert the file to UTF-8, or name its encoding"):
        list(read_records(Source(path=str(tmp_path / name))))


def test_the_encoding_may_include_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.csv").write_text("text,label\n東京,a\n", encoding=encoding)
        for named in ("utf-8", "utf-8-sig", "UTF_8_SIG"):
            source = parse(Source, {"path": str(tmp_path / "x.csv"), "encoding": named}, "test")
            assert [one.values for one in read_records(source)] == [{"text": "東京", "label": "a"}]


@pytest.mark.parametrize("encoding", ["utf-17", "utf-16", ""])
def test_an_invalid_encoding_is_refused(encoding):
    with pytest.raises(ConfigError, match=r"encoding|line feed"):
        parse(Source, {"path": "x.csv", "encoding": encoding}, "test")
