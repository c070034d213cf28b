"""The error and speed of lower precision, on a small model and a few texts."""

import pytest

from modernbert.bench.precision import bench_precision
from modernbert.errors import DataError
from modernbert.kernels import native
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.text.tokenizer_training import train_tokenizer

TEXTS = [f"Text number {n} says that {n} and {n + 1} are {2 * n + 1}." for n in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("precision")
    train_tokenizer(TEXTS, path / "tokenizer", vocab_size=320)
    config = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    MaskedLM(EncoderConfig(vocab_size=320, initializer_range=0.1, **config)).save_pretrained(
        path / "model", tokenizer=path / "tokenizer"
    )
    return path / "model"


@pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")
def test_every_form_is_measured_on_the_same_masks(folder):
    found = bench_precision(folder, TEXTS, limit=30)
    assert found.texts == 30
    plain, packed, half, *quantised = found.forms
    assert packed.loss == pytest.approx(plain.loss, rel=1e-5)
    assert packed.lowest_cosine > 0.99999
    assert 0 < abs(half.loss - plain.loss) < 0.05
    for form in quantised:
        assert 1e-6 < 1 - form.mean_cosine < 0.01
        assert form.lowest_cosine <= form.mean_cosine


def test_missing_text_is_reported(folder):
    with pytest.raises(DataError, match="The files have no text"):
        bench_precision(folder, [])
