"""Servers under load: the counts are correct and no request is lost."""

import asyncio
import json

import numpy as np
import pytest

from modernbert.bench import serving
from modernbert.bench.loopback import Body, closed_loop, open_loop
from modernbert.errors import BackendError, DataError
from modernbert.text.tokenizer import load_tokenizer
from served import Numbering, listening, numbering


@pytest.fixture(scope="module")
def bodies():
    return [Body(json.dumps({"input": "a" * length}).encode(), length) for length in range(1, 6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from corpora import make_model

    return make_model(tmp_path_factory.mktemp("loaded"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_requests_go_out_when_they_are_due_and_all_answers_are_counted(tokenizer, bodies):
    with listening([numbering(tokenizer, Numbering())]) as address:
        port = int(address.rsplit(":", 1)[1])
        answers = asyncio.run(open_loop(port, bodies, np.linspace(0, 0.3, 30).tolist()))
    assert (answers.sent, len(answers.seconds), answers.errors) == (30, 30, 0)
    assert answers.tokens == sum(body.tokens for body in bodies) * 6
    assert answers.took >= 0.3


def test_refused_requests_are_errors(tokenizer, bodies):
    with listening([numbering(tokenizer, Numbering())], payload_limit=16) as address:
        port = int(address.rsplit(":", 1)[1])
        answers = asyncio.run(open_loop(port, bodies, [0.0] * 10))
    assert answers.errors + len(answers.seconds) == 10
    assert answers.errors > 0


def test_clients_that_ask_again_lose_nothing(tokenizer, bodies):
    with listening([numbering(tokenizer, Numbering())]) as address:
        port = int(address.rsplit(":", 1)[1])
        answers = asyncio.run(closed_loop(port, bodies, 8, 0.3))
    assert answers.sent == len(answers.seconds) > 8
    assert answers.errors == 0


def test_texts_are_paragraphs_with_the_tokens_that_a_server_reads(folder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("short\n" + "import json and calendar\n" + "value = " * 400 + "\n", encoding="utf-8")
    texts, lengths = serving.texts_for(str(folder), [str(file)], 10, 128)
    assert len(texts) == len(lengths) == 2
    assert lengths[1] == 128
    file.write_text("short\n", encoding="utf-8")
    with pytest.raises(DataError, match="no text of at least 20 characters"):
        serving.texts_for(str(folder), [str(file)], 10, 128)


def test_a_server_that_does_not_start_is_one_sentence(folder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("import json and calendar\n", encoding="utf-8")
    command = "python -c \"import sys; sys.exit('no such engine')\""
    with pytest.raises(BackendError, match=r"The server does not start \(no such engine\); try its command"):
        serving.bench_serving(str(folder), [str(file)], {"other": command})


@pytest.mark.slow
def test_a_server_of_ours_is_measured_and_its_memory_watched(folder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("import json and calendar\n" * 50, encoding="utf-8")
    embedder = tmp_path / "embedder"
    from modernbert.model.retrieval import DenseEncoder

    DenseEncoder.from_pretrained(folder).save_pretrained(embedder)
    command = serving.our_command(str(embedder))
    report = serving.bench_serving(str(embedder), [str(file)], {serving.OURS: command}, seconds=2, shares=(0.5,))
    [result] = report.servers
    assert result.saturation.tokens_per_second > 0
    assert result.loads[0].errors == 0
    assert result.loads[0].p50_ms <= result.loads[0].p99_ms
    found = serving.soak(str(embedder), [str(file)], serving.OURS, command, seconds=5)
    assert found.lost == found.errors == 0
    assert found.answered == found.sent > 0
