import pytest
import torch

from corpora import make_model
from modernbert import FillMask
from modernbert.errors import CheckpointError, DataError
from modernbert.model import MaskedLM
from modernbert.packed import Sequences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), max_position_embeddings=64)


@pytest.fixture(scope="module")
def fill(folder):
    return FillMask.from_pretrained(folder, device="cpu")


def test_probabilities_are_those_of_the_model(fill):
    [candidates] = fill("import [MASK]", top_k=3)
    ids = torch.tensor(fill.tokenizer.encode("import [MASK]").ids)
    with torch.no_grad():
        logits = fill.model(ids, Sequences.from_lengths([len(ids)]))
    expected = logits[ids == fill.vocabulary.mask_id][0].softmax(-1)
    for candidate in candidates:
        assert candidate.probability == pytest.approx(float(expected[candidate.token_id]), rel=1e-4)
    assert candidates[0].probability >= candidates[1].probability >= candidates[2].probability


def test_each_mask_of_a_text_has_its_candidates(fill):
    first, second = fill("for  [MASK] in x[MASK]:", top_k=4)
    assert [len(first), len(second)] == [4, 4]
    assert [c.text for c in first] == [f"for  {c.token.lstrip(' ')} in x[MASK]:" for c in first]
    assert [c.text for c in second] == [f"for  [MASK] in x{c.token}:" for c in second]


@pytest.mark.parametrize("space", ["\n", " ", "\r\n", "\n\t ", "\u3000"])
def test_the_text_around_a_mask_stays_as_it_is(fill, space):
    [candidates] = fill(f"line one{space}[MASK] two", top_k=8)
    assert [c.text for c in candidates] == [f"line one{space}{c.token.lstrip(' ')} two" for c in candidates]


def test_other_special_tokens_in_a_text_are_text(fill):
    ids = fill.encode("a [SEP] b[CLS] [MASK]").ids.tolist()
    assert (ids.count(fill.vocabulary.sep_id), ids.count(fill.vocabulary.cls_id)) == (1, 1)
    assert ids.count(fill.vocabulary.mask_id) == 1
    assert len(fill("a [SEP] b [MASK]", top_k=1)) == 1


def test_many_texts_give_what_each_gives_alone(fill):
    texts = ["import [MASK]", "def [MASK](self): return [MASK]", "[MASK]"] * 4
    for text, together in zip(texts, fill(texts, top_k=2), strict=True):
        alone = fill(text, top_k=2)
        assert [[c.token_id for c in mask] for mask in alone] == [[c.token_id for c in mask] for mask in together]


def test_special_tokens_are_not_candidates(fill):
    size = int((~fill.vocabulary.special).sum())
    [candidates] = fill("[MASK]", top_k=10**6)
    assert len(candidates) == size
    assert not fill.vocabulary.special[[c.token_id for c in candidates]].any()


@pytest.mark.parametrize(
    ("text", "top_k", "message"),
    [
        ("no mask", 5, r"There is no \[MASK\] in 'no mask'"),
        ("[MASK] " + "word " * 100, 5, "tokens, and the model reads 64"),
        ("[MASK]", 0, "at least one candidate"),
        (["a [MASK]", None], 5, "Text 2 is None and should be a text"),
        (["a [MASK]", "[MASK] \ud83d"], 5, "Text 2 holds an unpaired surrogate"),
        (3, 5, "3 should be a text, or a list of texts"),
    ],
)
def test_invalid_input_is_an_error(fill, text, top_k, message):
    with pytest.raises(DataError, match=message):
        fill(text, top_k)


def test_a_text_above_a_given_max_length_is_refused(folder):
    with pytest.raises(DataError, match="and the model reads 4; shorten it"):
        FillMask.from_pretrained(folder, device="cpu", max_length=4)("import [MASK] as one")


def test_a_folder_without_tokenizer_is_refused(folder, tmp_path):
    MaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        FillMask.from_pretrained(tmp_path / "bare")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        FillMask.from_pretrained(tmp_path)
