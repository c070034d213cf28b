import subprocess
import sys

import numpy as np
import pytest

from corpora import write_shard
from modernbert.stream.inspect import inspect


def test_the_counts_equal_those_of_the_documents(tmp_path):
    lengths = np.random.default_rng(0).integers(1, 300, 200)
    write_shard(tmp_path / "a.ds", [[1] * int(n) for n in lengths])
    found = inspect(tmp_path, 128)
    assert (found.documents, found.tokens) == (200, lengths.sum())
    assert found.chunks == sum(-(-int(n) // 126) for n in lengths)
    assert found.chunks_per_sequence == pytest.approx(found.chunks / found.packed_sequences)
    assert found.packing_efficiency == pytest.approx((found.tokens + 2 * found.chunks) / (128 * found.packed_sequences))
    assert (found.median_length, found.longest) == (int(np.median(lengths)), lengths.max())
    for bin_ in found.histogram:
        assert bin_.documents == ((lengths >= bin_.start) & (lengths < bin_.stop)).sum()
    assert sum(bin_.documents for bin_ in found.histogram) == 200


def test_shards_are_inspected_without_torch():
    code = "import sys, modernbert.stream.inspect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_packing_efficiency_of_an_encyclopedia_is_above_99_5_percent(shared, tmp_path):
    from modernbert.corpus.build import CorpusRecipe, Source, build_corpus

    path = shared / "data" / "pretrain" / "encyclopedia-en.jsonl.gz"
    tokenizer = str(shared / "modernbert-tokenizer")
    build_corpus(
        CorpusRecipe(tokenizer=tokenizer, output=tmp_path, sources=(Source(name="encyclopedia", paths=(str(path),)),))
    )
    assert inspect(tmp_path / "encyclopedia", 1024).packing_efficiency > 0.995
