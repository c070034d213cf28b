import gzip
import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from seqeval.metrics.sequence_labeling import get_entities

from modernbert.config import parse
from modernbert.errors import ConfigError, DataError
from modernbert.tasks.reading import Source, read_choices, read_questions, read_spans, read_texts_with_labels
from modernbert.tasks.reading_spans import spans_of_tags
from modernbert.text.examples import Answer, Span
from modernbert.text.records import told_format

ROWS = [("a good one", "1"), ('he said "no', "0"), ("良い映画 😀", "1")]


def write_rows(folder, kind):
    """ROWS as a file of each format, and the source that means it."""
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


def test_lines_are_counted_over_quoted_line_breaks_and_empty_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"one\ntwo",a\n\nthree,b\n')
    assert [(one.text, one.origin.line) for one in read_texts_with_labels(path)] == [("one\ntwo", 2), ("three", 5)]


def test_one_object_a_line_is_read_under_the_name_json_too(tmp_path):
    (tmp_path / "x.json").write_text('{"text": "one", "label": 0}\n{"text": "two", "label": 1.0}\n')
    assert [one.label for one in read_texts_with_labels(tmp_path / "x.json")] == ["0", "1"]


def test_elements_of_a_json_array_stand_where_they_begin(tmp_path):
    (tmp_path / "x.json").write_text('[\n  {"text": "one",\n   "label": "a"},\n\n  {"text": "two", "label": "b"}]\n')
    assert [one.origin.line for one in read_texts_with_labels(tmp_path / "x.json")] == [2, 5]


def test_a_document_longer_than_the_csv_module_allows_is_read(tmp_path):
    (tmp_path / "x.csv").write_text(f'text,label\n"{"long " * 50_000}",a\n')
    [example] = read_texts_with_labels(tmp_path / "x.csv")
    assert len(example.text) == 250_000


def test_numbers_several_labels_and_pairs(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('one,two,score,topics,toxic,rude\na,b,2.5,"x, y",1,0\nc,d,3,,0,0\n')
    pairs = read_texts_with_labels(path, text="one", pair="two", label="score", kind="number")
    assert [(e.text, e.pair, e.label) for e in pairs] == [("a", "b", 2.5), ("c", "d", 3.0)]
    topics = read_texts_with_labels(path, text="one", label="topics", kind="classes")
    assert [e.label for e in topics] == [("x", "y"), ()]
    columns = read_texts_with_labels(path, text="one", label=("toxic", "rude"), kind="classes")
    assert [e.label for e in columns] == [("toxic",), ()]
    assert [e.label for e in read_texts_with_labels(path, text="one", label=None)] == [None, None]


@pytest.mark.parametrize(
    ("line", "options", "reason", "sentence"),
    [
        ('{"body": "x", "label": "a"}', {}, "missing column", "no column 'text'; there are body, label"),
        ('{"text": "x"}', {}, "missing column", "no column 'label'"),
        ('{"text": " ", "label": "a"}', {}, "empty text", "text is empty"),
        ('{"text": 5, "label": "a"}', {}, "no text", "text is 5"),
        ('{"text": "\\ud83d", "label": "a"}', {}, "half a surrogate pair", "half a surrogate pair"),
        ('{"text": "x", "label": null}', {}, "no label", "label is None"),
        ('{"text": "x", "label": "c"}', {"labels": ["a", "b"]}, "unknown label", "'c' is none of a, b"),
        ('{"text": "x", "label": ["c"]}', {"labels": ["a"], "kind": "classes"}, "unknown label", "'c' is none of a"),
        ('{"text": "x", "label": {}}', {"kind": "classes"}, "no label", "list of labels"),
        ('{"text": "x", "label": "high"}', {"kind": "number"}, "not a number", "'high'"),
        ('{"text": "x", "label": NaN}', {"kind": "number"}, "not a number", "nan"),
        ('{"text": "x", "label": "2"}', {"kind": "classes", "label": ("label",)}, "neither 0 nor 1", "'2'"),
        ("not json", {}, "broken line", "not JSON"),
        ("[1]", {}, "broken line", "no JSON object"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_its_line_or_counted(tmp_path, line, options, reason, sentence):
    path = tmp_path / "x.jsonl"
    good = {"classes": '["a"]', "number": "1"}.get(options.get("kind", ""), '"a"')
    good = "1" if "label" in options else good
    path.write_text(f'{{"text": "good", "label": {good}}}\n{line}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2: ") as error:
        list(read_texts_with_labels(path, **options))
    assert sentence in str(error.value)
    examples = read_texts_with_labels(path, **options, skip_bad=True)
    assert [one.text for one in examples] == ["good"]
    assert examples.skipped == {reason: 1}


def test_a_file_without_a_good_example_is_an_error_even_if_bad_ones_are_skipped(tmp_path):
    (tmp_path / "x.csv").write_text("sentence,label\nx,a\n")
    with pytest.raises(DataError, match=r"no example that can be used; the first is .*x\.csv:2: there is no column"):
        list(read_texts_with_labels(tmp_path / "x.csv", skip_bad=True))
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="it is empty"):
        list(read_texts_with_labels(tmp_path / "empty.csv"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.csv", b'text,label\n"open,a\nb,c\n', "quotation marks do not fit"),
        ("x.csv", b"text,text\na,b\n", "two columns have the same name"),
        ("x.csv", b"text,label\n\xff,a\n", r"x\.csv:2 is not UTF-8"),
        ("x.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 9999, mtime=0)[:-30], "is damaged after line"),
        ("x.json", b"[{", "cannot be read as JSON"),
        ("x.json", b'{"rows":\n[]}', "neither an array"),
        ("x.parquet", b"PAR1", "is damaged"),
        ("x.doc", b"text", "does not tell its format"),
    ],
    ids=[
        "quotes", "repeated column", "encoding", "cut gzip", "cut json", "no rows", "cut parquet", "unknown format",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(read_texts_with_labels(tmp_path / name, skip_bad=True))


@pytest.mark.parametrize(
    "text",
    ['text\tlabel\n"great\tpos\nit was "\tneg\nok\tpos\n', 'label\ttext\npos\t"great\nneg\tit was "\npos\tok\n'],
)
def test_a_quotation_mark_that_would_join_two_lines_of_a_tsv_is_refused(tmp_path, text):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DataError, match=r"x\.tsv:2: the quotation marks do not fit .*line 3.* or set literal_quotes"):
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
        ("x.csv", b"text,label\rfire,red\rgrass,green\r", "lines end with a carriage return alone"),
        ("x.tsv", b"text\tlabel\rfire\tred", "lines end with a carriage return alone"),
        ("x.csv", b"text,label\nfire\rsea,red\n", "x\\.csv:2: a carriage return .* stands inside the line"),
        ("x.conll", b"Anna B-PER\rsleeps O\r", "lines end with a carriage return alone"),
        ("x.jsonl", b'{"text": "a", "label": "b"}\r{"text": "c", "label": "d"}\r', "carriage return alone"),
    ],
)
def test_carriage_returns_alone_are_named_as_the_cause(tmp_path, name, raw, sentence):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=sentence):
        list(read_spans(tmp_path / name) if name == "x.conll" else read_texts_with_labels(tmp_path / name))


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_that_tells_what_stands_between_columns_is_followed(tmp_path, quote):
    (tmp_path / "x.csv").write_bytes(f"\ufeff{quote}sep=;{quote}\r\ntext;label\r\nfire, blood;red\r\n;\r\n".encode())
    assert next(iter(read_texts_with_labels(tmp_path / "x.csv"))).text == "fire, blood"
    with pytest.raises(DataError, match=r"x\.csv:4: text is empty"):
        list(read_texts_with_labels(tmp_path / "x.csv"))


def test_names_of_classes_in_the_schema_of_a_parquet_file_are_read(tmp_path):
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
    with pytest.raises(DataError, match="ner_tags holds numbers, and the file does not name what they mean"):
        list(read_spans(path, words="tokens", tags="ner_tags"))


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("['blue']", ("blue",)),
        ("['green', 'red']", ("green", "red")),
        ('["green", "it\'s"]', ("green", "it's")),
        ("['green' 'red']", ("green", "red")),
        ("('green', 'red')", ("green", "red")),
        ("{'red'}", ("red",)),
        ("[blue, red]", ("blue", "red")),
        ("[]", ()),
        ("['room 1 2']", ("room 1 2",)),
        ("['a' 'b' 'c d']", ("a", "b", "c d")),
        ("[3 12]", ("3", "12")),
        ("[3, 12]", ("3", "12")),
        ("blue, red", ("blue", "red")),
        ("(blue)", ("(blue)",)),
    ],
)
def test_a_list_of_labels_that_is_written_as_a_text_is_a_list(tmp_path, written, labels):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "one", "label": written}) + "\n")
    [example] = read_texts_with_labels(tmp_path / "x.jsonl", kind="classes")
    assert example.label == labels


@pytest.mark.parametrize("vector", [[1, 0, 1], [0.0, 0.0], [True, False, False], "[0, 1, 0]", "0,1,1", "[0 1 0]"])
def test_zeros_and_ones_for_labels_are_refused(tmp_path, vector):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "one", "label": vector}) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1: label is .* names of those that are, or a column of 0 and 1"):
        list(read_texts_with_labels(tmp_path / "x.jsonl", kind="classes"))


def test_a_line_of_another_number_of_columns_is_told(tmp_path):
    (tmp_path / "x.tsv").write_text("text\tlabel\na\tb\tc\nd\te\n")
    with pytest.raises(DataError, match=r"x\.tsv:2: there are 3 columns where 2 are expected \(text, label\)"):
        list(read_texts_with_labels(tmp_path / "x.tsv"))
    examples = read_texts_with_labels(tmp_path / "x.tsv", skip_bad=True)
    assert [one.text for one in examples] == ["d"]
    assert examples.skipped == {"other number of columns": 1}
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
def test_a_column_that_is_not_there_is_told_with_the_remedy(tmp_path, name, content, remedy):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}:[12]: .*{remedy}"):
        list(read_texts_with_labels(tmp_path / name))


@pytest.mark.parametrize("literal_quotes", [False, True])
def test_space_around_names_in_a_header_is_left_out(tmp_path, literal_quotes):
    (tmp_path / "x.csv").write_text("text , label\na,b\n")
    source = Source(path=str(tmp_path / "x.csv"), literal_quotes=literal_quotes)
    assert [(one.text, one.label) for one in read_texts_with_labels(source)] == [("a", "b")]


def test_a_delimiter_is_one_character():
    for wrong in ("", ";;", "\\t", '"', "\n"):
        with pytest.raises(ConfigError, match=r"delimiter: give one character, such as ; or \|"):
            parse(Source, {"path": "x"}, "here", [f"delimiter={json.dumps(wrong)}"])
    assert Source(path="x", delimiter=", ", literal_quotes=True).delimiter == ", "


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one", "label": "a"}\nbroken\n')
    assert next(iter(read_texts_with_labels(tmp_path / "x.jsonl"))).text == "one"


CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nPeter\tB-PER\r\nBlackburn\tI-PER\r\n\r\nO\tO\n"


def test_conll_columns_become_texts_with_spans_and_words(tmp_path):
    (tmp_path / "x.conll").write_bytes(CONLL.encode())
    first, second, third = read_spans(tmp_path / "x.conll")
    assert (first.text, first.spans, first.words) == ("EU rejects", (Span(0, 2, "ORG"),), ((0, 2), (3, 10)))
    assert (second.spans, second.origin.line) == ((Span(0, 15, "PER"),), 6)
    assert third.spans == ()
    assert next(iter(read_spans(tmp_path / "x.conll", joined_by=""))).text == "EUrejects"


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-A I-A O", [(1, 3, "A")]),
        ("I-A I-A B-A I-B", [(0, 2, "A"), (2, 3, "A"), (3, 4, "B")]),
        ("B-A B-A I-A I-A", [(0, 1, "A"), (1, 4, "A")]),
        ("S-A B-A E-A E-A", [(0, 1, "A"), (1, 3, "A"), (3, 4, "A")]),
        ("U-A B-B L-B O", [(0, 1, "A"), (1, 3, "B")]),
        ("B-A M-A E-A M-A", [(0, 3, "A"), (3, 4, "A")]),
        ("B-A M-A M-B E-B", [(0, 2, "A"), (2, 4, "B")]),
    ],
)
def test_tags_of_every_scheme_are_read_as_the_conll_script_reads_them(tags, spans):
    assert spans_of_tags([(i, i + 1) for i in range(4)], tags.split()) == tuple(Span(*span) for span in spans)


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=12))
def test_spans_of_tags_agree_with_seqeval(tags):
    ours = [
        (span.label, span.begin, span.end - 1) for span in spans_of_tags([(i, i + 1) for i in range(len(tags))], tags)
    ]
    assert ours == get_entities(tags)


def read_columns(tmp_path, text, **options):
    (tmp_path / "x.conll").write_text(text, encoding="utf-8")
    names = {name: options.pop(name) for name in ("words", "tags", "skip_bad") if name in options}
    examples = read_spans(Source(path=str(tmp_path / "x.conll"), **options), **names)
    return [(one.text, [(span.label, one.text[span.begin : span.end]) for span in one.spans]) for one in examples]


@pytest.mark.parametrize("behind", ["", "\n"])
@pytest.mark.parametrize("marker", ["-DOCSTART- -X- O O\n", "-DOCSTART-\n", "-DOCSTART- O\n", "-DOCSTART-\tO\r\n"])
def test_of_a_marker_and_what_follows_only_the_line_of_the_marker_goes(tmp_path, marker, behind):
    text = f"{marker}{behind}Anna B-PER\nsleeps O\n\nOslo B-LOC\n{marker}{behind}Rome B-LOC\n"
    expected = [("Anna sleeps", [("PER", "Anna")]), ("Oslo", [("LOC", "Oslo")]), ("Rome", [("LOC", "Rome")])]
    assert read_columns(tmp_path, text) == expected


NUMBERED = "1\tAnna\tB-PER\tO\n2\tOsloer\tO\tB-LOC\n\n1\tOslo\tB-LOC\tO\n"


def test_columns_are_named_by_number_or_by_name(tmp_path):
    outer = [("Anna Osloer", [("PER", "Anna")]), ("Oslo", [("LOC", "Oslo")])]
    inner = [("Anna Osloer", [("LOC", "Osloer")]), ("Oslo", [])]
    assert read_columns(tmp_path, NUMBERED, words="2", tags="3") == outer
    assert read_columns(tmp_path, NUMBERED, words="2", tags="4") == inner
    assert read_columns(tmp_path, NUMBERED, tags="3") == outer
    names = ("id", "word", "outer", "inner")
    assert read_columns(tmp_path, NUMBERED, columns=names, words="word", tags="inner") == inner
    own = f"# global.columns = ID FORM OUTER INNER\n{NUMBERED}"
    assert read_columns(tmp_path, own, words="FORM", tags="OUTER") == outer
    with pytest.raises(DataError, match="there is no column '7'; there are words, lines, tags, 1, 2"):
        read_columns(tmp_path, "a O\n", tags="7")


def test_a_first_column_that_counts_is_no_word(tmp_path):
    with pytest.raises(DataError, match=r"x\.conll:1: the columns 3 and 4 all hold tags; name .* data\.tags = 3"):
        read_columns(tmp_path, NUMBERED)
    text = "1\tAnna\tNNP\tB-PER\n2-3\tim\t_\t_\n2\tin\tIN\tO\n3\tdem\tDT\tO\n"
    assert read_columns(tmp_path, text) == [("Anna in dem", [("PER", "Anna")])]
    scores = "1 CD O\n\n2 CD O\n\n1 CD O\n2 CD B-X\n3 CD O\n\nAnna NNP O\n"
    assert [text for text, _ in read_columns(tmp_path, scores)] == ["1", "2", "1 2 3", "Anna"]
    assert [text for text, _ in read_columns(tmp_path, "1 O\n2 B-X\n")] == ["1 2"]


def test_comments_are_told_by_what_they_begin_with_or_noticed(tmp_path):
    text = "# id 1\tdomain=en\n# text = Anna\nAnna _ B-PER\n# _ O\n\n#newdoc id\nOslo _ B-LOC\n"
    assert read_columns(tmp_path, text) == [("Anna #", [("PER", "Anna")]), ("Oslo", [("LOC", "Oslo")])]
    assert read_columns(tmp_path, "%% O\nAnna B-PER\n%% x\n", comments="%%") == [("Anna", [("PER", "Anna")])]
    assert read_columns(tmp_path, "# O\n1 O\n") == [("# 1", [])]
    with pytest.raises(DataError, match=r"x\.conll:2: 'x' is no tag"):
        read_columns(tmp_path, "Anna B-PER\n# x\n")


def test_bmes_and_bmeo_are_read_as_bioes(tmp_path):
    text = "王 B-PER\n小 M-PER\n明 E-PER\n住 O\n沪 S-LOC\n\n王 B-PER\n明 E-PER\n京 B-LOC\n在 O\n"
    first, second = read_columns(tmp_path, text)
    assert first == ("王 小 明 住 沪", [("PER", "王 小 明"), ("LOC", "沪")])
    assert second == ("王 明 京 在", [("PER", "王 明"), ("LOC", "京")])


def test_white_space_at_the_ends_of_a_span_is_no_part_of_it(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "Piet \\u00a0reads", "entities": [[0, 6, "PER"], [5, 11, "ACT"]]}\n')
    with pytest.raises(DataError, match="overlap"):
        list(read_spans(Source(path=str(write(tmp_path, [[0, 6, "A"], [4, 8, "B"]])))))
    [example] = read_spans(tmp_path / "x.jsonl")
    assert example.spans == (Span(0, 4, "PER"), Span(6, 11, "ACT"))


def write(folder, spans):
    (folder / "y.jsonl").write_text(json.dumps({"text": "Pietreads", "entities": spans}) + "\n")
    return folder / "y.jsonl"


def test_words_and_tags_in_json_lines(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"tokens": ["東", "京"], "ner": ["B-LOC", "I-LOC"]}\n')
    [example] = read_spans(tmp_path / "x.jsonl", words="tokens", tags="ner", joined_by="")
    assert (example.text, example.spans) == ("東京", (Span(0, 2, "LOC"),))


def test_spans_by_their_offsets_in_every_spelling(tmp_path):
    spellings = [
        [7, 9, "LOC"],
        {"begin": 7, "end": 9, "label": "LOC"},
        {"start": 7, "end": 9, "label": "LOC", "text": "日本"},
        {"start_offset": 7, "end_offset": 9, "label": "LOC"},
        {"span": [7, 9], "type": "LOC", "name": "日本"},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "松友美佐紀は、日本の選手。😀", "entities": [one]} for one in spellings]))
    assert [one.spans for one in read_spans(path)] == [(Span(7, 9, "LOC"),)] * 5


@pytest.mark.parametrize(
    ("record", "reason", "sentence"),
    [
        ({"text": "one two", "entities": [[0, 8, "A"]]}, "span outside its text", "outside its text of 7 characters"),
        ({"text": "one two", "entities": [[3, 3, "A"]]}, "span outside its text", "3 to 3"),
        ({"text": "one two", "entities": [[4, 7, "A"], [0, 5, "B"]]}, "overlapping spans", r"0 to 5 .B. and 4 to 7"),
        ({"text": "one two", "entities": [[0, "3", "A"]]}, "strange span", "should tell begin, end and label"),
        ({"text": "one two", "entities": None}, "no spans", "should be a list"),
        ({"text": "one two", "entities": [{"span": [1, 4], "type": "A", "name": "one"}]}, "another text in the span",
         "'ne ' and not 'one'; count characters"),
        ({"text": "one two", "entities": [[0, 3, "C"]]}, "unknown label", "'C' is none of A, B"),
        ({"text": "one  two", "entities": [[3, 5, "A"]]}, "empty span", "holds white space alone"),
        ({"text": "zoe\u0308", "entities": [[0, 3, "A"]]}, "span inside a character", "parts a letter from its marks"),
        ({"text": "क्षि", "entities": [[2, 4, "A"]]}, "span inside a character", "parts a letter from its marks"),
        ({"words": ["a\ud83d"], "tags": ["O"]}, "half a surrogate pair", "a word holds half"),
        ({"words": ["one"], "tags": "O"}, "strange words", "tags is 'O' and should be a list of texts"),
        ({"text": "one two"}, "missing column", "no column 'entities'"),
        ({"text": "", "entities": []}, "empty text", "text is empty"),
        ({"words": ["one"], "tags": ["B-A", "O"]}, "strange words", "same length"),
        ({"words": ["one"], "tags": ["A"]}, "strange tag", "'A' is no tag"),
        ({"words": ["one", " "], "tags": ["O", "O"]}, "empty text", "a word is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_spans_is_said_with_its_line_or_counted(tmp_path, record, reason, sentence):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "good", "entities": [[0, 4, "A"]]}) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=rf"x\.jsonl:2: .*{sentence}"):
        list(read_spans(path, labels=("A", "B")))
    examples = read_spans(path, labels=("A", "B"), skip_bad=True)
    assert [one.text for one in examples] == ["good"]
    assert examples.skipped == {reason: 1}


def test_a_strange_tag_or_none_in_conll_is_told_with_its_own_line(tmp_path):
    path = tmp_path / "x.conll"
    path.write_text("a O\nb X\n\nc O\nd\n\ne B-A\n")
    with pytest.raises(DataError, match=r"x\.conll:2: 'X' is no tag"):
        list(read_spans(path))
    examples = read_spans(path, skip_bad=True)
    assert [one.text for one in examples] == ["e"]
    assert examples.skipped == {"strange tag": 1, "no tag": 1}


SQUAD = {
    "data": [
        {
            "title": "東京",
            "paragraphs": [
                {
                    "context": "日本の首都は東京である。",
                    "qas": [
                        {"id": "q1", "question": "首都は？", "answers": [{"text": "東京", "answer_start": 6}]},
                        {"id": "q2", "question": "人口は？", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}


def test_squad_files_give_a_question_each(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(SQUAD, ensure_ascii=False, indent=1))
    first, second = read_questions(tmp_path / "x.json")
    assert (first.identifier, first.question, first.answers) == ("q1", "首都は？", (Answer("東京", 6),))
    assert second.answers == ()
    lines = (tmp_path / "x.json").read_text().splitlines()
    assert '"q1"' in lines[first.origin.line - 1]
    assert '"q2"' in lines[second.origin.line - 1]


def test_questions_in_columns_as_on_the_hub(tmp_path):
    record = {"id": 7, "question": "q", "context": "the answer", "answers": {"text": ["answer"], "answer_start": [4]}}
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    [example] = read_questions(tmp_path / "x.jsonl")
    assert (example.identifier, example.answers) == ("7", (Answer("answer", 4),))
    [example] = read_questions(tmp_path / "x.jsonl", answers=None, identifier=None)
    assert example.identifier.endswith("x.jsonl:1")


def test_an_answer_that_is_not_at_its_place_is_told_with_the_place_where_it_is(tmp_path):
    record = {"id": "a", "question": "q", "context": "the answer", "answers": [{"text": "answer", "answer_start": 5}]}
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:1: question a: the answer 'answer' is not at 5; it stands at 4\."):
        list(read_questions(tmp_path / "x.jsonl"))


def test_questions_without_the_column_id_are_named_by_their_place(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "Who?", "context": "A cat.", "answers": [], "name": 3}\n' * 2)
    places = [f"{path}:1", f"{path}:2"]
    assert [one.identifier for one in read_questions(path)] == places
    assert [one.identifier for one in read_questions(path, identifier=None)] == places
    assert [one.identifier for one in read_questions(path, identifier="name")] == ["3", "3"]
    with pytest.raises(DataError, match=r"x\.jsonl:1: there is no column 'key'"):
        list(read_questions(path, identifier="key"))


@pytest.mark.parametrize("identifier", [20, "二十", "twenty"])
def test_a_squad_question_without_answers_is_told_with_its_line_and_not_taken_as_unanswerable(tmp_path, identifier):
    questions = [
        {"id": 10, "question": "Who?", "answers": [{"text": "A", "answer_start": 0}]},
        {"id": 11, "question": "Why?", "is_impossible": True},
        {"id": identifier, "question": "Where?"},
    ]
    path = tmp_path / "x.json"
    paragraph = {"context": "A cat, 20 of them.", "qas": questions}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}, indent=1))
    line = 1 + path.read_text().splitlines().index(f'       "id": {json.dumps(identifier)},')
    assert line > 10
    with pytest.raises(DataError, match=rf"x\.json:{line}: there is no column 'answers'; there are id, question"):
        list(read_questions(path))
    assert [one.identifier for one in read_questions(path, answers=None)] == ["10", "11", str(identifier)]
    assert [len(one.answers) for one in read_questions(path, skip_bad=True)] == [1, 0]


def test_a_squad_file_that_breaks_its_form_is_told(tmp_path):
    (tmp_path / "x.json").write_text('{"data": [{"paragraphs": [{"qas": []}, {"qas": [{"id": "a"}]}]}]}')
    with pytest.raises(DataError, match="SQuAD's form"):
        list(read_questions(tmp_path / "x.json"))


def test_choices_in_columns_in_a_list_and_with_names(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "a": "one", "b": "two", "label": 1}\n')
    [example] = read_choices(path, choices=("a", "b"))
    assert (example.choices, example.label) == (("one", "two"), 1)
    path.write_text('{"question": "q", "choices": ["one", "two"], "label": "two"}\n')
    assert [one.label for one in read_choices(path)] == [1]
    path.write_text('{"question": "q", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "key": "B"}\n')
    assert [one.label for one in read_choices(path, label="key")] == [1]
    assert [one.label for one in read_choices(path, label=None)] == [None]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "choices": ["one", "two"], "label": 2}, "label outside the choices"),
        ({"question": "q", "choices": ["one", "two"], "label": -1}, "label outside the choices"),
        ({"question": "q", "choices": ["one"], "label": 0}, "no choices"),
        ({"question": "q", "choices": ["one", " "], "label": 0}, "empty text"),
        ({"question": "q", "choices": ["one", "two"]}, "missing column"),
        ({"question": "q", "label": 0}, "missing column"),
        ({"question": "", "choices": ["one", "two"], "label": 0}, "empty text"),
    ],
)
def test_what_is_wrong_with_choices_is_counted(tmp_path, record, reason):
    good = {"question": "q", "choices": ["one", "two"], "label": 0}
    (tmp_path / "x.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: "):
        list(read_choices(tmp_path / "x.jsonl"))
    examples = read_choices(tmp_path / "x.jsonl", skip_bad=True)
    assert len(list(examples)) == 1
    assert examples.skipped == {reason: 1}


def test_a_hub_data_set_gives_names_of_classes(tmp_path, monkeypatch):
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


def test_the_task_files_are_read_without_one_bad_line(shared):
    tasks = shared / "data" / "tasks"
    if not tasks.is_dir():
        pytest.skip("the task files are not beside this checkout")
    sst = Source(path=str(tasks / "glue" / "SST-2" / "train.tsv"), literal_quotes=True)
    assert sum(1 for _ in read_texts_with_labels(sst, text="sentence", labels=("0", "1"))) == 67_349
    assert sum(1 for _ in read_spans(Source(path=str(tasks / "conll2003" / "valid.txt"), format="conll"))) == 3_250
    assert sum(1 for _ in read_spans(tasks / "ja_ner_wikipedia" / "ner.json")) == 5_343
    assert sum(1 for _ in read_questions(tasks / "jaquad" / "dev")) == 3_939


@pytest.mark.parametrize("name", ["reviews.xlsx", "Reviews.XLS", "reviews.ods"])
def test_a_spreadsheet_is_named_with_the_way_out(name, tmp_path):
    with pytest.raises(DataError, match="is a spreadsheet, which is not read; save it as CSV"):
        told_format(tmp_path / name)
