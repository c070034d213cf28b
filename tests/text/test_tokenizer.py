import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from modernbert.errors import DataError
from modernbert.text.documents import read_texts
from modernbert.text.framing import special_ids
from modernbert.text.tokenizer import SpecialTokens, Vocabulary, load_tokenizer
from modernbert.text.tokenizer_training import evaluate_tokenizer, train_tokenizer

JAPANESE = [
    "吾輩は猫である。名前はまだ無い。",
    "どこで生れたか頓と見当がつかぬ。",
    "東京は日本の首都です。 The capital.",
] * 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("tokenizers")
    english = list(read_texts(["python:json", "python:textwrap"]))
    train_tokenizer(english, base / "bpe", vocab_size=1024)
    train_tokenizer(JAPANESE + english[:1], base / "unigram", vocab_size=576, kind="unigram")
    return base


@pytest.fixture(params=["bpe", "unigram"])
def folder(request, folders) -> Path:
    return folders / request.param


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def test_the_published_tokenizer_gives_the_recorded_ids(shared):
    tokenizer = load_tokenizer(shared / "modernbert-tokenizer")
    cases = json.loads((shared / "modernbert-tokenizer" / "golden_ids.json").read_text(encoding="utf-8"))["cases"]
    assert len(cases) > 15
    for case in cases:
        assert tokenizer.encode(case["text"]).ids == case["input_ids"], case["text"]


def test_the_published_vocabulary_has_its_special_tokens_and_size(shared):
    vocabulary = Vocabulary.of(load_tokenizer(shared / "modernbert-tokenizer"))
    assert (vocabulary.size, vocabulary.cls_id, vocabulary.sep_id) == (50_368, 50_281, 50_282)
    assert (vocabulary.pad_id, vocabulary.mask_id) == (50_283, 50_284)
    assert vocabulary.special[50_280:].all()
    assert not vocabulary.special[50_254:50_277].any()  # runs of spaces are text


@settings(deadline=None, max_examples=60)
@given(text=any_text)
def test_decoding_restores_the_text_up_to_nfc(folders, text):
    for kind in ("bpe", "unigram"):
        tokenizer = _load(folders / kind)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


@settings(deadline=None, max_examples=60)
@given(text=any_text.filter(lambda text: "[" not in text and "<0x" not in text))
def test_byte_lengths_add_up_to_the_text(folders, text):
    for kind in ("bpe", "unigram"):
        tokenizer = _load(folders / kind)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert Vocabulary.of(tokenizer).byte_lengths[ids].sum() == len(unicodedata.normalize("NFC", text).encode())


_loaded: dict[Path, Tokenizer] = {}


def _load(folder: Path) -> Tokenizer:
    return _loaded.setdefault(folder, load_tokenizer(folder))


@pytest.mark.parametrize("text", ["日本 ▁ 😀👨‍👩‍👧", "a\x00b\r\n\t  c   ", "e\u0301 ｶﾞ", " " * 50, "\n\n \n"])
def test_hard_texts_round_trip(folder, text):
    tokenizer = _load(folder)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


def test_mask_includes_the_space_before_it(folder):
    tokenizer = _load(folder)
    mask = tokenizer.token_to_id("[MASK]")
    ids = tokenizer.encode("ab [MASK] cd", add_special_tokens=False).ids
    assert ids == [*tokenizer.encode("ab", add_special_tokens=False).ids, mask,
                   *tokenizer.encode(" cd", add_special_tokens=False).ids]  # fmt: skip


def test_the_template_is_cls_a_sep_b_sep(folder):
    tokenizer = _load(folder)
    assert [t for t in tokenizer.encode("a", "b").tokens if t.startswith("[")] == ["[CLS]", "[SEP]", "[SEP]"]
    assert tokenizer.encode("a").tokens[0] == "[CLS]"


def test_the_vocabulary_is_a_multiple_of_64_and_full(folder):
    tokenizer = _load(folder)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    assert size % 64 == 0
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))


def test_entries_that_the_corpus_cannot_fill_are_unused(tmp_path):
    tokenizer = train_tokenizer(["aaa"], tmp_path / "t", vocab_size=448)
    assert tokenizer.get_vocab_size() == 448
    assert tokenizer.token_to_id("[unused0]") is not None
    assert Vocabulary.of(tokenizer).special[tokenizer.token_to_id("[unused0]")]


def test_transformers_gives_the_same_ids(folder):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ("def f(x):\n    return [MASK]", "東京は [MASK] です。", "  a   b  "):
        assert theirs(text)["input_ids"] == _load(folder).encode(text).ids
    assert (theirs.mask_token, theirs.pad_token, theirs.cls_token) == ("[MASK]", "[PAD]", "[CLS]")
    assert theirs.model_max_length == 8192


def test_byte_level_training_is_deterministic(folders, tmp_path):
    train_tokenizer(read_texts(["python:json", "python:textwrap"]), tmp_path / "again", vocab_size=1024)
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (folders / "bpe" / "tokenizer.json").read_bytes()


def test_special_tokens_are_never_ordinary(folder):
    vocabulary = Vocabulary.of(_load(folder))
    special = [vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id, vocabulary.mask_id]
    assert vocabulary.special[special].all()
    assert not np.isin(special, vocabulary.ordinary).any()
    assert len(vocabulary.ordinary) + vocabulary.special.sum() == vocabulary.size


def test_a_tokenizer_is_evaluated(folder):
    report = evaluate_tokenizer(_load(folder), ["one two three", "日本"])
    assert report.documents == 2
    assert report.bytes == 13 + 6
    assert report.tokens_per_word == report.tokens / 4
    assert report.round_trip_failures == report.unknown_tokens == 0
    assert 0 < report.unused_entries < report.vocab_size


@pytest.mark.parametrize(("content", "message"), [(None, "no tokenizer.json"), ("{", "cannot be read as a tokenizer")])
def test_a_folder_without_a_tokenizer_is_an_error(tmp_path, content, message):
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_mask_is_refused(tmp_path):
    from tokenizers import models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"has no \[CLS\]"):
        load_tokenizer(tmp_path)


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for text in ("text", "another text"):
        train_tokenizer([text], tmp_path, vocab_size=320)
        load_tokenizer(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_the_tokenizer_of_a_model_is_not_replaced(name, tmp_path):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(DataError, match=r"holds a model .* needs its own tokenizer; choose another folder"):
        train_tokenizer(["text"], tmp_path, vocab_size=320)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_tokenizer_json_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"mine": 1}')
    with pytest.raises(DataError, match="is not a tokenizer and would be lost"):
        train_tokenizer(["text"], tmp_path, vocab_size=320)
    assert (tmp_path / "tokenizer.json").read_text() == '{"mine": 1}'


NAMES = {"[CLS]": "<begin>", "[SEP]": "<end>", "[PAD]": "<nothing>", "[MASK]": "<hole>", "[UNK]": "<what>"}
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def renamed(folder: Path, target: Path, files=FILES) -> Path:
    """A copy of a tokenizer whose special tokens have other names."""
    target.mkdir()
    for name in files:
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in NAMES.items():
            text = text.replace(old, new)
        (target / name).write_text(text, encoding="utf-8")
    return target


def without_frame(path: Path) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"post_processor": None}), encoding="utf-8")


def ids_of(vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id, vocabulary.mask_id]


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("beside", FILES[1:])
def test_special_tokens_have_the_names_in_the_folder(beside, framed, folder, tmp_path):
    other = renamed(folder, tmp_path / "other", (FILES[0], beside))
    if not framed:
        without_frame(other / "tokenizer.json")
    tokenizer = load_tokenizer(other)
    assert SpecialTokens.of(tokenizer) == SpecialTokens("<begin>", "<end>", "<nothing>", "<hole>", "<what>")
    mine, theirs = Vocabulary.of(load_tokenizer(folder)), Vocabulary.of(tokenizer)
    assert ids_of(mine) == ids_of(theirs)
    assert np.array_equal(mine.special, theirs.special)
    assert np.array_equal(mine.byte_lengths, theirs.byte_lengths)
    assert special_ids(tokenizer) == (mine.cls_id, mine.sep_id)


def test_special_tokens_are_found_by_the_ids_of_config_json(folder, tmp_path):
    other = renamed(folder, tmp_path / "other", FILES[:1])
    without_frame(other / "tokenizer.json")
    names = ("cls", "sep", "pad", "mask")
    ids = dict(zip(names, ids_of(Vocabulary.of(load_tokenizer(folder))), strict=True))
    (other / "config.json").write_text(json.dumps({f"{name}_token_id": index for name, index in ids.items()}))
    assert ids_of(Vocabulary.of(load_tokenizer(other))) == list(ids.values())


def test_the_tokens_that_a_tokenizer_adds_come_before_a_token_named_cls(folder, tmp_path):
    """As in Japanese models that have a token <cls>, but begin texts with <s>."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens(["<cls>", "<sep>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config_values = {"cls_token": "<cls>", "sep_token": "<sep>", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config_values))
    names = SpecialTokens.of(load_tokenizer(tmp_path))
    assert (names.cls, names.sep, names.mask) == ("[CLS]", "[SEP]", "[MASK]")


def test_a_configured_token_that_the_tokenizer_lacks_is_ignored(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": "<gone>", "pad_token": {"content": 3}}')
    assert SpecialTokens.of(load_tokenizer(tmp_path)).mask == "[MASK]"


def test_a_repository_needs_no_special_tokens_map(folder, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(repository, name, **_):
        if name == "special_tokens_map.json":
            raise LocalEntryNotFoundError(f"404: {name}")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(Path, "is_file", lambda path: path.exists() and path.name != "special_tokens_map.json")
    assert SpecialTokens.of(load_tokenizer("someone/model")).mask == "[MASK]"


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{", "[" * 100_000])
def test_invalid_files_beside_a_tokenizer_are_an_error(text, folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(DataError, match=r"tokenizer_config\.json (cannot be read|holds a)"):
        load_tokenizer(tmp_path)


def test_sentencepiece_tokens_have_their_byte_lengths():
    from tokenizers import decoders, models, pre_tokenizers

    names = ["<s>", "</s>", "<pad>", "<mask>", "<unk>"]
    pieces = [*names, "\u2581", "\u2581a", "猫", "a", "<0xE3>"]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens(names)
    vocabulary = Vocabulary.of(tokenizer)
    assert vocabulary.byte_lengths[: len(pieces)].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 1]


def test_a_vocabulary_too_small_for_all_bytes_is_refused(tmp_path):
    with pytest.raises(DataError, match="too small"):
        train_tokenizer(["text"], tmp_path / "t", vocab_size=128)
