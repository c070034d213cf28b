import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from corpora import make_tokenizer
from modernbert import collate_mlm
from modernbert.errors import ConfigError, DataError
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.text.tokenizer import Vocabulary, load_tokenizer

TEXTS = ["import os", "def f(x):\n    return x + 1", "class A:\n    pass\n" * 40]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("collate") / "tokenizer"))


def original(batch):
    """The ids before they were masked."""
    return torch.where(batch.labels == -100, batch.input_ids, batch.labels)


def test_nothing_is_truncated_or_padded(tokenizer):
    vocabulary = Vocabulary.of(tokenizer)
    batch = collate_mlm(tokenizer, max_length=16)(TEXTS)
    found = [
        ids[(ids != vocabulary.cls_id) & (ids != vocabulary.sep_id)]
        for ids in original(batch).split(batch.sequences.lengths)
    ]
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert torch.cat(found).tolist() == [one for ids in encoded for one in ids]
    assert max(batch.sequences.lengths) <= 16
    assert min(batch.sequences.lengths) > 2


def test_texts_ids_and_mappings_give_the_same_batch(tokenizer):
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    batches = [
        collate_mlm(tokenizer)(examples)
        for examples in (
            TEXTS,
            ids,
            [np.array(one) for one in ids],
            [torch.tensor(one) for one in ids],
            [{"text": text} for text in TEXTS],
            [{"input_ids": one, "label": 1} for one in ids],
        )
    ]
    for batch in batches[1:]:
        assert torch.equal(batch.input_ids, batches[0].input_ids)
        assert torch.equal(batch.labels, batches[0].labels)


def test_the_fraction_of_predicted_tokens_is_the_mask_ratio(tokenizer):
    batch = collate_mlm(tokenizer, mask_ratio=0.3)([TEXTS[2]] * 64)
    assert (batch.labels != -100).float().mean() == pytest.approx(
        0.3 * (1 - 2 / np.mean(batch.sequences.lengths)), abs=0.02
    )


def test_masks_differ_between_batches_and_depend_on_the_seed(tokenizer):
    one, other = collate_mlm(tokenizer, seed=1), collate_mlm(tokenizer, seed=1)
    first, second = one(TEXTS), one(TEXTS)
    assert not torch.equal(first.labels, second.labels)
    assert torch.equal(first.labels, other(TEXTS).labels)
    assert not torch.equal(first.labels, collate_mlm(tokenizer, seed=2)(TEXTS).labels)


def test_workers_use_new_masks_in_every_epoch(tokenizer):
    torch.manual_seed(3)
    loader = DataLoader(TEXTS, batch_size=3, num_workers=1, collate_fn=collate_mlm(tokenizer))
    [first], [second] = list(loader), list(loader)
    assert torch.equal(original(first), original(second))
    assert not torch.equal(first.labels, second.labels)


def test_a_custom_training_loop_learns(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = EncoderConfig(vocab_size=Vocabulary.of(tokenizer).size, **sizes)
    model = MaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        for batch in DataLoader(TEXTS * 4, batch_size=4, collate_fn=collate_mlm(tokenizer)):
            loss = model.loss(batch.input_ids, batch.sequences, batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 2


@pytest.mark.parametrize("settings", [{"max_length": 2}, {"mask_ratio": 0.0}, {"mask_ratio": 1.5}])
def test_invalid_settings_are_refused(tokenizer, settings):
    with pytest.raises(ConfigError):
        collate_mlm(tokenizer, **settings)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([""], "no token"),
        ([{"title": "x"}], "neither text nor input_ids; it has title"),
        ([[1.5, 2.0]], "neither a text nor a list"),
        ([[10**6]], "has the id 1000000"),
        ([[-4]], "has the id -4"),
    ],
)
def test_an_invalid_example_is_an_error(tokenizer, examples, message):
    with pytest.raises(DataError, match=message):
        collate_mlm(tokenizer)(examples)
