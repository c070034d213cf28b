"""A head runs on batches of texts; a batch is computed while the previous one is unpacked."""

import numpy as np
import pytest
import torch

from corpora import make_model
from modernbert.errors import CheckpointError
from modernbert.model import SequenceClassifier, TokenClassifier
from modernbert.tasks.outputs import outputs

TEXTS = [np.arange(2, 2 + length, dtype=np.int64) for length in (5, 9, 1, 7, 3, 8, 2)]


@pytest.mark.parametrize("kind", [SequenceClassifier, TokenClassifier])
def test_outputs_do_not_depend_on_the_batches(kind, tmp_path):
    torch.manual_seed(0)
    model = kind.from_pretrained(make_model(tmp_path)).eval()
    alone = [outputs(model, [ids])[0] for ids in TEXTS]
    for tokens_at_once in (1, 10, 1000):
        found = outputs(model, TEXTS, tokens_at_once)
        assert [answer.shape for answer in found] == [answer.shape for answer in alone]
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_outputs_that_are_not_finite_are_refused_in_any_batch(tmp_path):
    model = SequenceClassifier.from_pretrained(make_model(tmp_path)).eval()
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        outputs(model, TEXTS, 10)
