"""The packed encoder equals the encoder that it replaces, at every instruction level."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import BackendError, DataError
from modernbert.kernels import native
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.model.optimized import InferenceEncoder, optimize_for_inference
from modernbert.packed import Sequences

SIZES = {
    "heads of 32": {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 3},
    "heads of 64": {"hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 2},
    "half a panel": {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1},
}
LENGTHS = [[1], [16], [5, 0, 70], [64, 65, 200], [1, 1, 1], [600, 30], [1100]]


def encoder(size: str = "heads of 32", **changes: object) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(vocab_size=300, num_hidden_layers=4, local_attention=32, **SIZES[size], **changes)
    return Encoder(config).eval()


def batch(lengths: list[int]) -> tuple[torch.Tensor, Sequences]:
    generator = torch.Generator().manual_seed(len(lengths))
    return torch.randint(300, (sum(lengths),), generator=generator), Sequences.from_lengths(lengths)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def plain(module: Encoder, lengths: list[int]) -> torch.Tensor:
    """The modules in plain PyTorch."""
    chosen = native.level()
    native.select("off")
    try:
        return module(*batch(lengths))
    finally:
        native.select(chosen)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_it_computes_what_the_modules_compute(level, size, lengths):
    module = encoder(size)
    assert error(InferenceEncoder(module)(*batch(lengths)), plain(module, lengths)) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=6).filter(any),
    size=st.sampled_from(list(SIZES)),
    window=st.sampled_from([2, 30, 128]),
    every=st.integers(1, 4),
    layers=st.integers(1, 3),
)
def test_any_lengths_windows_and_patterns(lengths, size, window, every, layers):
    if reason := native.unavailable():
        pytest.skip(f"the native backend {reason}")
    sizes = SIZES[size] | {"local_attention": window, "global_attn_every_n_layers": every, "num_hidden_layers": layers}
    module = Encoder(EncoderConfig(vocab_size=300, **sizes)).eval()
    assert error(InferenceEncoder(module)(*batch(lengths)), plain(module, lengths)) < 1e-5


def test_bf16_is_at_least_as_precise_as_the_modules(level):
    module = encoder("heads of 64")
    exact = plain(module, [300, 7])
    half = module.bfloat16()
    found = InferenceEncoder(half)(*batch([300, 7]))
    assert found.dtype == torch.bfloat16
    assert error(found, exact) < error(plain(half, [300, 7]), exact)


def test_int8_results_are_close_to_fp32(level):
    module = encoder("heads of 64", initializer_range=0.1)
    exact = plain(module, [300, 7])
    assert error(InferenceEncoder(module, int8=True)(*batch([300, 7])), exact) < 0.05


def test_int8_sums_are_exact_at_every_level(level):
    """Largest magnitudes of both signs, for which sums of saturated 16-bit products would overflow."""
    module = encoder("half a panel")
    with torch.no_grad():
        for layer in module.layers:
            layer.mlp.Wi.weight.copy_(layer.mlp.Wi.weight.sign())
    ours = InferenceEncoder(module, int8=True)(*batch([40]))
    native.select("avx2")
    assert error(ours, InferenceEncoder(module, int8=True)(*batch([40]))) < 1e-5


def test_a_sequence_has_the_same_bits_alone_and_packed(level):
    ready = InferenceEncoder(encoder())
    tokens, sequences = batch([70, 513, 33])
    packed = ready(tokens, sequences)[70:583]
    assert torch.equal(packed, ready(tokens[70:583], Sequences.from_lengths([513])))


def test_threads_do_not_change_the_bits(level):
    ready, before = InferenceEncoder(encoder()), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(ready(*batch([300, 400])))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_several_python_threads_may_call_it_at_once(level):
    ready = InferenceEncoder(encoder())
    wanted = [ready(*batch([50 + 40 * n, 3])) for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: ready(*batch([50 + 40 * (n % 6), 3])), range(60)))
    assert all(torch.equal(found[n], wanted[n % 6]) for n in range(60))


def test_it_replaces_the_encoder_of_a_model(level):
    torch.manual_seed(0)
    model = MaskedLM(EncoderConfig(vocab_size=300, num_hidden_layers=2, **SIZES["heads of 64"])).eval()
    with torch.no_grad():
        wanted = model(*batch([40, 9]))
        optimize_for_inference(model)
        assert isinstance(model.model, InferenceEncoder)
        assert error(model(*batch([40, 9])), wanted) < 1e-5


def test_unsupported_models_stay_unchanged():
    model = MaskedLM(EncoderConfig(vocab_size=300, num_hidden_layers=2, mlp_bias=True, **SIZES["heads of 64"]))
    optimize_for_inference(model)
    assert isinstance(model.model, Encoder)
    with pytest.raises(BackendError, match="do not support biases; use it unchanged"):
        optimize_for_inference(model, int8=True)
    with pytest.raises(BackendError, match="multiple of 32"):
        InferenceEncoder(encoder("half a panel").half())


def test_missing_native_kernels_are_reported():
    native.select("off")
    try:
        with pytest.raises(BackendError, match="switched off by MODERNBERT_NATIVE"):
            InferenceEncoder(encoder())
    finally:
        native.select("")


@pytest.mark.parametrize("tokens", [0, 10, 79, 81, 100, 5000])
def test_another_number_of_tokens_than_the_sequences_have_is_refused(level_or_off, tokens):
    """It neither adds a sequence nor reads past the end of a table."""
    module = encoder()
    ids, sequences = torch.zeros(tokens, dtype=torch.int64), Sequences.from_lengths([50, 30])
    encoders = [module] if level_or_off == "off" else [module, InferenceEncoder(module)]
    for one in encoders:
        with pytest.raises(DataError, match=f"There are {tokens} tokens but the sequences have 80"):
            one(ids, sequences)
        with pytest.raises(DataError, match=f"There are {tokens} tokens but the sequences have 4096"):
            one(ids, Sequences.from_lengths([4096]))


def test_no_tokens_give_no_rows(level_or_off):
    module = encoder()
    for one in [module] if level_or_off == "off" else [module, InferenceEncoder(module)]:
        assert one(*batch([0])).shape == (0, 96)


@pytest.mark.timeout(900)
def test_many_threads_at_mixed_lengths_get_the_bits_of_one():
    """The table of rotations grows while other threads read it."""
    if reason := native.unavailable():
        pytest.skip(f"the native backend {reason}")
    torch.manual_seed(0)
    module = Encoder(EncoderConfig(vocab_size=300, num_hidden_layers=1, local_attention=32, **SIZES["half a panel"]))
    lengths = [[3], [600, 20], [1500], [40, 9, 1], [4097], [513], [8192]]
    wanted = [InferenceEncoder(module)(*batch(numbers)) for numbers in lengths]
    for _ in range(3):
        ready = InferenceEncoder(module)  # with an empty table
        order = [0, 6, 3, 1, 4, 5, 2, 6, 0, 4, 1, 3]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n, ready=ready: ready(*batch(lengths[n])), order))
        assert all(torch.equal(one, wanted[n]) for n, one in zip(order, found, strict=True))


def test_a_table_that_another_thread_puts_in_the_place_of_a_longer_one_is_not_read(monkeypatch):
    if reason := native.unavailable():
        pytest.skip(f"the native backend {reason}")
    ready, wanted = InferenceEncoder(encoder()), InferenceEncoder(encoder())(*batch([1500, 20]))
    ready(*batch([3]))
    short, store = ready._rotations, torch.nn.Module.__setattr__

    def store_and_lose(self, name, value):
        store(self, name, short if name == "_rotations" else value)

    monkeypatch.setattr(InferenceEncoder, "__setattr__", store_and_lose, raising=False)
    assert torch.equal(ready(*batch([1500, 20])), wanted)
