"""A model that was used before a fork gives the same outputs in child processes (gunicorn --preload)."""

import multiprocessing

import pytest
import torch

from modernbert.model import Encoder, EncoderConfig
from modernbert.model.optimized import InferenceEncoder
from modernbert.packed import Sequences

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # forking is tested here
LENGTHS = [50 + 37 * n for n in range(4)]
CALLS = 6
TIMEOUT_SECONDS = 240  # a child without its threads would wait forever


def batch(length: int) -> tuple[torch.Tensor, Sequences]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(300, (length,), generator=generator), Sequences.from_lengths([length])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_parent_and_children_of_a_fork_answer_as_before_it(level, kind, threads):
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 2}
    module = Encoder(EncoderConfig(vocab_size=300, local_attention=32, **sizes)).eval()
    ready = InferenceEncoder(module.bfloat16() if kind == "bf16" else module, int8=kind == "int8")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wanted = {length: ready(*batch(length)) for length in LENGTHS}

        def wrong_answers() -> int:
            lengths = [LENGTHS[n % len(LENGTHS)] for n in range(CALLS)]
            return sum(not torch.equal(ready(*batch(length)), wanted[length]) for length in lengths)

        context = multiprocessing.get_context("fork")
        results = context.Queue()
        children = [context.Process(target=lambda: results.put(wrong_answers())) for _ in range(2)]
        for child in children:
            child.start()
        try:
            assert wrong_answers() == 0
            assert [results.get(timeout=TIMEOUT_SECONDS) for _ in children] == [0, 0]
        finally:
            for child in children:
                child.kill()
                child.join()
    finally:
        torch.set_num_threads(before)
