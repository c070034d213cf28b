"""Bits per byte by source, by length and over all lengths: counts, and sums of parts."""

import json

import numpy as np
import pytest
import torch

from corpora import make_tokenizer
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.evaluate.length import _batches, _stretches, quality_by_length
from modernbert.evaluate.mlm import batch_of, load_masked_model, masked_quality, source_names
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.text.documents import read_texts
from modernbert.train.validation import Totals, evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model that reads 256 tokens, and texts of two sources."""
    base = tmp_path_factory.mktemp("mlm")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = EncoderConfig(
        vocab_size=1024, max_position_embeddings=256, cls_token_id=1020, sep_token_id=1021, pad_token_id=1022,
        mask_token_id=1023, **sizes,
    )  # fmt: skip
    MaskedLM(config).save_pretrained(base / "model", tokenizer=make_tokenizer(base / "tokenizer"))
    [text] = read_texts(["python:textwrap"])
    with (base / "short.jsonl").open("w") as file:
        for line in text.splitlines():
            if line.strip():
                file.write(json.dumps({"text": line}) + "\n")
    (base / "long.txt").write_text(text)
    return base


def test_sources_and_lengths_each_add_up_to_everything(folder):
    found = masked_quality(folder / "model", [str(folder / "short.jsonl"), str(folder / "long.txt")], tokens=3000)
    assert [one.name for one in found.by_source] == ["short", "long"]
    assert [one.name for one in found.by_length] == ["1 to 128", "129 to 512"]
    for parts in (found.by_source, found.by_length):
        assert sum(one.rows for one in parts) == found.everything.rows
        assert sum(one.tokens for one in parts) == found.everything.tokens
        assert sum(one.predictions for one in parts) == found.everything.predictions
        loss = sum(one.loss * one.predictions for one in parts) / found.everything.predictions
        assert loss == pytest.approx(found.everything.loss)
    assert 0.1 < found.everything.predictions / found.everything.tokens < 0.2
    assert found.everything.loss == pytest.approx(np.log(1024), rel=0.1)  # an untrained model is at chance
    assert 3000 <= found.by_source[1].tokens < 3000 + 256


def test_the_masks_of_a_source_do_not_depend_on_other_sources(folder):
    short, long = str(folder / "short.jsonl"), str(folder / "long.txt")
    both = masked_quality(folder / "model", [short, long], tokens=2000)
    alone = masked_quality(folder / "model", [long], tokens=2000)
    assert alone.everything.predictions == both.by_source[1].predictions
    assert alone.everything.loss == pytest.approx(both.by_source[1].loss)
    assert masked_quality(folder / "model", [long], tokens=2000, seed=1).everything.loss != alone.everything.loss


def test_every_length_predicts_the_same_tokens(folder):
    report = quality_by_length(folder / "model", [str(folder / "long.txt")], lengths=(64, 16, 256), stretches=4)
    assert [result.length for result in report.results] == [16, 64, 256]
    assert len({result.predictions for result in report.results}) == 1
    assert [result.rows for result in report.results] == [4 * -(-254 // 14), 4 * -(-254 // 62), 4]
    assert len({result.bits_per_byte for result in report.results}) == 3
    assert report.tokens == 4 * 254
    assert all(0 < one.slowest <= one.tokens_per_second <= one.fastest for one in report.results)


def test_default_lengths_are_those_that_the_model_supports(folder):
    report = quality_by_length(folder / "model", [str(folder / "long.txt")], stretches=1)
    assert [result.length for result in report.results] == [128, 256]


def test_rows_of_a_length_are_the_stretches_cut_and_nothing_else(folder):
    _, tokenizer, vocabulary = load_masked_model(folder / "model", "cpu")
    stretches = _stretches(tokenizer, [str(folder / "long.txt")], "text", 254, 3)
    assert [len(ids) for ids in stretches] == [254] * 3
    labels = [np.arange(254) for _ in stretches]
    batches = list(_batches(list(zip(stretches, labels, strict=True)), 32, vocabulary))
    for batch in batches:
        starts = batch.sequences.cu_seqlens[:-1].long()
        assert set(batch.input_ids[starts].tolist()) == {vocabulary.cls_id}
        assert max(batch.sequences.lengths) <= 32
    predicted = torch.cat([batch.labels[batch.labels != -100] for batch in batches])
    assert predicted.tolist() == [*range(254)] * 3
    text = torch.cat([batch.input_ids[batch.labels != -100] for batch in batches])
    assert text.tolist() == np.concatenate(stretches).tolist()


def test_totals_add_up_to_the_results_of_all_rows(folder):
    model, tokenizer, vocabulary = load_masked_model(folder / "model", "cpu")
    ids = np.array(tokenizer.encode("import json").ids, dtype=np.int64)
    batches = [batch_of([(ids, np.where(np.arange(len(ids)) == place, ids, -100))]) for place in (1, 2)]
    one, two = (evaluate(model, [batch], vocabulary, "fp32") for batch in batches)
    both = evaluate(model, batches, vocabulary, "fp32")
    assert both["loss"] == pytest.approx((one["loss"] + two["loss"]) / 2)
    assert (Totals(1.0, 1, 2, 4) + Totals(3.0, 0, 2, 4)).results()["accuracy"] == 0.25


def test_mistakes_are_reported(folder):
    text = str(folder / "long.txt")
    with pytest.raises(ConfigError, match="reads 3 to 256"):
        masked_quality(folder / "model", [text], max_length=512)
    with pytest.raises(ConfigError, match="mask ratio is 1"):
        masked_quality(folder / "model", [text], mask_ratio=1)
    for ratio in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=f"mask ratio is {ratio}"):
            quality_by_length(folder / "model", [text], mask_ratio=ratio)
    with pytest.raises(ConfigError, match="stretches is 0; it must be at least 1"):
        quality_by_length(folder / "model", [text], stretches=0)
    with pytest.raises(ConfigError, match="from 8 to 256"):
        quality_by_length(folder / "model", [text], lengths=(128, 512))
    with pytest.raises(DataError, match="No document has 254 tokens"):
        quality_by_length(folder / "model", [str(folder / "short.jsonl")])
    with pytest.raises(CheckpointError):
        masked_quality(folder, [text])


def test_sources_have_short_names_where_these_are_unique():
    assert source_names(["a/books.jsonl.gz", "a/news.jsonl"]) == ["books", "news"]
    assert source_names(["a/x.txt", "b/x.txt", "y"]) == ["a/x.txt", "b/x.txt", "y"]
