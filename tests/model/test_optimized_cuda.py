"""The encoder of CUDA kernels equals the modules."""

import threading

import pytest
import torch

from modernbert.errors import BackendError
from modernbert.model import Encoder, EncoderConfig
from modernbert.model.optimized_cuda import GRAPH_SEQUENCES, GRAPH_TOKENS, CudaEncoder, graph_shape, unsupported_reason
from modernbert.packed import Sequences

SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 2}


def test_a_batch_uses_the_smallest_graph_that_holds_it_and_a_large_batch_uses_none():
    assert graph_shape(1, 1) == (32, 1)
    assert graph_shape(128, 1) == (128, 1)
    assert graph_shape(129, 2) == (192, 8)
    assert graph_shape(16_385, 64) == (18_432, 64)
    assert graph_shape(GRAPH_TOKENS[-1], GRAPH_SEQUENCES[-1]) == (GRAPH_TOKENS[-1], GRAPH_SEQUENCES[-1])
    assert graph_shape(GRAPH_TOKENS[-1] + 1, 1) is None
    assert graph_shape(1000, GRAPH_SEQUENCES[-1] + 1) is None


def test_an_encoder_on_the_cpu_is_refused_with_the_reason():
    encoder = Encoder(EncoderConfig(vocab_size=100, **SIZES))
    assert "on cpu" in str(unsupported_reason(encoder))
    with pytest.raises(BackendError, match="on cpu"):
        CudaEncoder(encoder)


def encoders() -> tuple[Encoder, CudaEncoder]:
    torch.manual_seed(0)
    encoder = (
        Encoder(EncoderConfig(vocab_size=1000, local_attention=32, max_position_embeddings=1 << 17, **SIZES))
        .eval()
        .cuda()
    )
    half = Encoder(encoder.config).cuda().eval()
    half.load_state_dict(encoder.state_dict())
    return encoder, CudaEncoder(half.bfloat16())


def material(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, Sequences]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1000, (sum(lengths),), generator=generator).cuda(), Sequences.from_lengths(lengths, "cuda")


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.gpu
@pytest.mark.parametrize(
    "lengths", [[1], [7, 0, 20], [128], [300, 1, 90], [16] * 40, [5000], [2000] * 4, [20_000, 3], [66_000]], ids=str
)
def test_it_gives_what_the_modules_give(lengths):
    encoder, ours = encoders()
    tokens, sequences = material(lengths)
    with torch.inference_mode():
        wanted = encoder(tokens, sequences)
        assert error(ours(tokens, sequences), wanted) < 2e-2
        assert error(ours(tokens, sequences), wanted) < 2e-2  # recorded
        assert error(ours(tokens, sequences), wanted) < 2e-2  # replayed
        again, others = material(lengths, seed=1)
        assert error(ours(again, others), encoder(again, others)) < 2e-2


@pytest.mark.gpu
def test_a_text_may_be_longer_than_the_model_was_made_for():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(vocab_size=1000, max_position_embeddings=64, **SIZES)).cuda().bfloat16().eval()
    tokens, sequences = material([100, 30])
    with torch.inference_mode():
        wanted = encoder(tokens, sequences).float()
        for _ in range(3):
            assert error(CudaEncoder(encoder)(tokens, sequences), wanted) < 2e-2


@pytest.mark.gpu
def test_a_result_outlives_the_next_call_and_takes_part_in_autograd_elsewhere():
    _, ours = encoders()
    first = ours(*material([100]))
    kept = first.clone()
    ours(*material([100], seed=1))
    assert torch.equal(first, kept)
    weight = torch.ones(128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    (first * weight).sum().backward()


@pytest.mark.gpu
def test_threads_get_their_own_results():
    _, ours = encoders()
    inputs = [material([20 + 5 * number], seed=number) for number in range(8)]
    wanted = [ours(*each) for each in inputs]
    found: list[torch.Tensor | None] = [None] * len(inputs)

    def work(number: int) -> None:
        for _ in range(20):
            found[number] = ours(*inputs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        assert torch.equal(one, other)
