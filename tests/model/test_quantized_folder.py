"""Model folders whose matrices are stored in int8."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from corpora import make_model
from modernbert import FillMask
from modernbert.errors import CheckpointError
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.model.quantized_folder import INT8_WEIGHTS, METHOD, dequantized, quantized
from modernbert.packed import Sequences


def make(**changes) -> MaskedLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    return MaskedLM(EncoderConfig(**(sizes | changes)))


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path / "model", int8=True)
    return tmp_path / "model"


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 70), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_a_weight_moves_by_half_a_scale_at_most(rows, columns, size, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    stored = quantized({"a.weight": weight})
    assert stored["a.weight"].dtype == torch.int8
    assert stored["a.weight"].shape == weight.shape
    assert stored["a.weight.scale"].shape == (rows,)
    error = (dequantized(stored, "here")["a.weight"] - weight).abs()
    assert (error <= stored["a.weight.scale"][:, None] * 0.5001).all()


def test_the_largest_weight_of_a_row_is_127_steps_and_a_row_of_zeros_stays():
    stored = quantized({"a.weight": torch.tensor([[0.5, -2.0, 1.0], [0.0, 0.0, 0.0]])})
    assert stored["a.weight"][0].tolist() == [32, -127, 64]
    assert stored["a.weight.scale"].tolist() == pytest.approx([2 / 127, 1.0])
    assert dequantized(stored, "here")["a.weight"][1].tolist() == [0, 0, 0]


def test_storing_what_was_stored_changes_nothing():
    first = dequantized(quantized({"a.weight": torch.randn(20, 30)}), "here")
    again = dequantized(quantized(first), "here")
    torch.testing.assert_close(again["a.weight"], first["a.weight"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("tie", [True, False])
def test_a_quantized_folder_loads_as_the_model_that_it_represents(tie, tmp_path):
    model = make(tie_word_embeddings=tie, attention_bias=True, norm_bias=True)
    model.save_pretrained(tmp_path / "model", int8=True)
    loaded = MaskedLM.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    scales = {name: x for name, x in load_file(tmp_path / "model" / INT8_WEIGHTS).items() if name.endswith(".scale")}
    expected = {f"{name}.scale" for name, x in model.state_dict().items() if x.dim() == 2 and name not in model.tied}
    assert scales.keys() == expected
    found = loaded.state_dict()
    for name, weight in model.state_dict().items():
        assert found[name].dtype == torch.float32
        if weight.dim() == 1:
            assert torch.equal(found[name], weight), name
        elif name not in model.tied:
            assert ((found[name] - weight).abs() <= scales[f"{name}.scale"][:, None] * 0.5001).all(), name
            assert not torch.equal(found[name], weight), name
    assert (loaded.decoder.weight is loaded.model.embeddings.tok_embeddings.weight) == tie


def test_it_computes_nearly_what_the_model_computes(folder):
    tokens, sequences = torch.arange(30), Sequences.from_lengths([20, 10])
    with torch.no_grad():
        exact = make().eval()(tokens, sequences)
        stored = MaskedLM.from_pretrained(folder)(tokens, sequences)
    assert (stored - exact).norm() < 0.02 * exact.norm()


def test_a_dtype_can_be_requested_and_the_bare_encoder_loads(folder):
    loaded = MaskedLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert type(Encoder.from_pretrained(folder)) is Encoder


def test_saved_again_it_is_an_ordinary_folder(folder, tmp_path):
    from transformers import AutoModelForMaskedLM

    model = MaskedLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "ordinary")
    assert "quantization_config" not in json.loads((tmp_path / "ordinary" / "config.json").read_text())
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "ordinary").state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_transformers_refuses_the_folder(folder):
    from transformers import AutoModelForMaskedLM

    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForMaskedLM.from_pretrained(folder)


def test_a_predictor_loads_it(tmp_path):
    source = make_model(tmp_path)
    MaskedLM.from_pretrained(source).save_pretrained(tmp_path / "stored", int8=True)
    assert (tmp_path / "stored" / INT8_WEIGHTS).stat().st_size < 0.32 * (source / "model.safetensors").stat().st_size
    [first], [second] = (
        FillMask.from_pretrained(x, device="cpu")("import [MASK]") for x in (source, tmp_path / "stored")
    )
    assert second[0].probability == pytest.approx(first[0].probability, rel=0.05)


NAME = "head.dense.weight"


def without_scale(tensors):
    del tensors[f"{NAME}.scale"]


def without_integers(tensors):
    del tensors[NAME]


def short_scale(tensors):
    tensors[f"{NAME}.scale"] = torch.ones(3)


def whole_scale(tensors):
    tensors[f"{NAME}.scale"] = torch.ones(64, dtype=torch.int32)


def no_number(tensors):
    tensors[f"{NAME}.scale"][5] = torch.nan


def negative(tensors):
    tensors[f"{NAME}.scale"][5] = -1.0


def floats(tensors):
    tensors[NAME] = tensors[NAME].float()


def wrong_shape(tensors):
    tensors[NAME], tensors[f"{NAME}.scale"] = torch.ones(2, 64, dtype=torch.int8), torch.ones(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scale, rf"has {NAME} in int8 without {NAME}\.scale"),
        (without_integers, rf"has {NAME}\.scale without {NAME}"),
        (short_scale, r"its scales are \(3,\) of torch\.float32"),
        (whole_scale, r"of torch\.int32; there must be one floating-point scale"),
        (no_number, r"holds a scale that is not above 0"),
        (negative, r"holds a scale that is not above 0"),
        (floats, rf"{NAME} has scales but is torch\.float32, not int8"),
        (wrong_shape, rf"{NAME} is \(2, 64\) but should be \(64, 64\)"),
    ],
)
def test_a_broken_file_is_one_sentence(change, message, folder):
    tensors = load_file(folder / INT8_WEIGHTS)
    change(tensors)
    save_file(tensors, folder / INT8_WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        MaskedLM.from_pretrained(folder)


def test_a_file_and_a_config_that_disagree_are_one_sentence(folder):
    stored = (folder / INT8_WEIGHTS).read_bytes()
    (folder / INT8_WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=rf"has no {INT8_WEIGHTS}, which its config\.json names"):
        MaskedLM.from_pretrained(folder)
    (folder / INT8_WEIGHTS).write_bytes(stored)
    values = json.loads((folder / "config.json").read_text())
    assert values.pop("quantization_config") == METHOD
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"no model\.safetensors; {INT8_WEIGHTS} is read only if config\.json"):
        MaskedLM.from_pretrained(folder)


def test_weights_that_are_not_finite_are_not_stored(tmp_path):
    model = make()
    with torch.no_grad():
        model.head.dense.weight[3, 4] = torch.inf
    with pytest.raises(CheckpointError, match=r"head\.dense\.weight holds a value that is not finite"):
        model.save_pretrained(tmp_path / "model", int8=True)
    assert not (tmp_path / "model").exists()
