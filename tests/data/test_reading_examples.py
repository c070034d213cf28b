import gzip
import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from seqeval.metrics.sequence_labeling import get_entities

from modernbert.config import parse
from modernbert.data.examples import Answer, Span
from modernbert.data.reading_examples import Source, read_choices, read_questions, read_spans, read_texts_with_labels
from modernbert.data.reading_spans import spans_of_tags
from modernbert.errors import ConfigError, DataError

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
