import json

import pytest
from datatrove.data import Document

from corpora import make_tokenizer
from modernbert.config import parse
from modernbert.corpus import filters, samples
from modernbert.corpus.build import CorpusRecipe, Source, _fingerprint, build_corpus
from modernbert.errors import ConfigError, DataError
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import load_tokenizer

ENGLISH = (
    "The harbour lies at the mouth of the river, and the town grew around it. In the morning the boats go out with the "
    "tide, and in the evening they come home to the market. Most families have lived here for longer than anyone can "
    "remember. They say that the weather changes with the moon, and that a wise captain listens to the gulls."
)
JAPANESE = (
    "港は川の河口にあり、町はその周りに広がっていった。朝になると船は潮に乗って出ていき、夕方には市場へ戻ってくる。"
)
GERMAN = (
    "Der Hafen liegt an der Mündung des Flusses, und die Stadt ist um ihn herum gewachsen. Am Morgen fahren sie aus."
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(make_tokenizer(tmp_path_factory.mktemp("filters") / "tokenizer"))


@pytest.fixture
def build(tokenizer, tmp_path):
    """Builds one source from some texts: the manifest, the texts that were kept, and samples of the others."""

    def run(texts, **options):
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / "texts.jsonl").write_text("\n".join(lines))
        source = {"name": "web", "paths": [str(tmp_path / "texts.jsonl")], **options}
        recipe = {"tokenizer": tokenizer, "output": str(tmp_path / "out"), "sources": [source], "workers": 1}
        [manifest] = build_corpus(parse(CorpusRecipe, recipe, "recipe"))
        shards, ids = Shards.open(tmp_path / "out" / "web"), load_tokenizer(tokenizer)
        kept = [ids.decode(shards.document(i).tolist()) for i in range(shards.num_documents)]
        return manifest, kept, samples.read(tmp_path / "out" / "web")

    return run


def test_documents_of_one_language_are_kept_without_network(build):
    manifest, kept, refused = build([ENGLISH, JAPANESE, GERMAN], language="ja")
    assert kept == [JAPANESE]
    assert manifest.skipped == {"not ja": 2}
    assert {text for _, text in refused["not ja"]} == {ENGLISH, GERMAN}


def test_a_document_needs_the_minimum_language_score(build):
    doubtful = "Der Hafen in the morning and the evening"
    assert filters.OfflineLanguageFilter("en", 0.9).filter(Document(text=doubtful, id=""))
    manifest, kept, _ = build([ENGLISH, doubtful], language="en", language_score=0.999)
    assert kept == [ENGLISH]
    assert manifest.skipped == {"not en": 1}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gopher-quality", "a short text", "gopher_short_doc"),
        ("gopher-repetition", "\n".join([ENGLISH] * 5), "dup_line_frac"),
        ("c4", "function () { return 1 }.", "curly_bracket"),
        ("fineweb", "\n".join(f"Item {i}" for i in range(60)), "line_punct_ratio"),
    ],
)
def test_each_filter_refuses_its_documents_and_counts_the_reason(build, name, text, reason):
    manifest, kept, refused = build(
        [ENGLISH, text], filters=[name], filter_options={"c4": {"min_num_sentences": 3}} if name == "c4" else {}
    )
    assert kept == [ENGLISH]
    assert manifest.skipped == {f"{name}: {reason}": 1}
    [(origin, sample)] = refused[f"{name}: {reason}"]
    assert (origin.rpartition(":")[2], sample) == ("2", text[: samples.CHARACTERS])


def test_a_document_is_counted_under_the_first_filter_that_refuses_it(build):
    both = "\n".join(["few words"] * 3)
    first, _, _ = build([ENGLISH, both], filters=["gopher-repetition", "gopher-quality"])
    assert first.skipped == {"gopher-repetition: dup_line_frac": 1}


def test_c4_keeps_lines_with_sentence_punctuation(build):
    sentences = ENGLISH.replace(". ", ".\n")
    _, kept, _ = build(
        [f"Menu\n{sentences}\nHome | About"], filters=["c4"], filter_options={"c4": {"min_num_sentences": 2}}
    )
    assert kept == [sentences]


def test_options_are_passed_to_the_filter(build):
    manifest, kept, _ = build(
        [ENGLISH, "the cat and the dog"],
        filters=["gopher-quality"],
        filter_options={"gopher-quality": {"min_doc_words": 4, "stop_words": ["the", "and"]}},
    )
    assert len(kept) == 2
    assert manifest.skipped == {}


def test_an_unknown_option_is_an_error_with_a_suggestion(build):
    with pytest.raises(ConfigError, match="no option 'min_doc_word'; did you mean 'min_doc_words'"):
        build([ENGLISH], filters=["gopher-quality"], filter_options={"gopher-quality": {"min_doc_word": 4}})


def test_options_of_an_unused_filter_are_refused(build):
    with pytest.raises(ConfigError, match="filter_options names 'c4', which is not in filters"):
        build([ENGLISH], filters=["fineweb"], filter_options={"c4": {}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "english"}, "py3langid does not support the language 'english'"),
        (
            {"language": "en", "language_model": "nowhere.bin"},
            "'nowhere.bin' cannot be loaded .*give the path of a fastText",
        ),
        (
            {"filters": ["fineweb"], "filter_options": {"fineweb": {"language": "qqq"}}},
            "cannot split words of the language 'qqq'",
        ),
    ],
)
def test_errors_are_raised_before_any_file_is_read(build, options, message):
    with pytest.raises(DataError, match=message):
        build([ENGLISH], **options)


def test_a_local_fasttext_model_detects_languages(build, tmp_path):
    fasttext = pytest.importorskip("fasttext")
    lines = [f"__label__{name} {part}" for name, text in (("en", ENGLISH), ("de", GERMAN)) for part in text.split(". ")]
    (tmp_path / "train.txt").write_text("\n".join(lines * 20))
    model = fasttext.train_supervised(str(tmp_path / "train.txt"), dim=8, epoch=50, minn=2, maxn=3, thread=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    manifest, kept, _ = build([ENGLISH, GERMAN], language="de", language_model=str(tmp_path / "model.bin"))
    assert kept == [GERMAN]
    assert manifest.skipped == {"not de": 1}


def test_a_failed_model_download_is_an_error(build, monkeypatch):
    pytest.importorskip("fasttext")

    def no_network(*_, **__):
        raise OSError("the network is unreachable")

    monkeypatch.setattr("datatrove.utils.lid.cached_asset_path_or_download", no_network)
    with pytest.raises(DataError, match=r"'ft176' cannot be loaded \(the network is unreachable\); give the path"):
        build([ENGLISH], language="en", language_model="ft176")


def test_a_missing_word_splitter_is_an_error_with_the_install_command(monkeypatch):
    def missing():
        raise ImportError("Please install `spacy` to use en word tokenizer.")

    monkeypatch.setattr(filters, "load_tokenizer_assignments", lambda: {"en": missing})
    monkeypatch.delitem(filters.sys.modules, "spacy", raising=False)
    with pytest.raises(DataError, match=r"pip install .*\[filters\]'"):
        filters.check_words.__wrapped__("en")


def test_unset_new_keys_do_not_change_the_fingerprint():
    """Otherwise shards of older versions would have to be rebuilt."""
    source = Source(name="web", paths=("texts/*.jsonl",), min_characters=20)
    assert _fingerprint(source, [], "hash") == "29146213e6ea8635adec9c007c515fd6cd8cb569e058faaf72c6900004e4b2ea"
    assert (
        _fingerprint(source.model_copy(update={"deduplicate": "exact"}), [], "hash")
        != "29146213e6ea8635adec9c007c515fd6cd8cb569e058faaf72c6900004e4b2ea"
    )
