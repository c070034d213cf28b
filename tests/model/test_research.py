import collections
import json

import pytest
import torch

from modernbert.errors import CheckpointError, ConfigError
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.model.research import import_research_checkpoint


def research_name(name: str) -> str:
    if name.startswith("model.layers."):
        return f"model.bert.encoder.{name.removeprefix('model.')}"
    return f"model.bert.{name.removeprefix('model.')}" if name.startswith("model.") else f"model.{name}"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskedLM(
        EncoderConfig(vocab_size=96, hidden_size=128, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
    )


def write(path, model, prefix=""):
    tensors = {prefix + research_name(name): x for name, x in model.state_dict().items()}
    torch.save({"state": {"model": tensors, "timestamp": {"batch": 3}}, "rng": [torch.zeros(3)]}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_a_research_checkpoint_becomes_a_model_folder(model, tmp_path, prefix):
    import_research_checkpoint(write(tmp_path / "ckpt.pt", model, prefix), tmp_path / "out")
    loaded = MaskedLM.from_pretrained(tmp_path / "out")
    assert loaded.config.num_attention_heads == 2
    assert loaded.config.num_hidden_layers == 4
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in model.state_dict().items())


def test_a_config_supplies_what_tensors_do_not_show(model, tmp_path):
    config = model.config.model_copy(update={"global_rope_theta": 10_000.0, "local_attention": 6})
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    import_research_checkpoint(write(tmp_path / "ckpt.pt", model), tmp_path / "out", config=tmp_path / "config.json")
    assert MaskedLM.from_pretrained(tmp_path / "out").config.window(1) == 3


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_code_in_a_checkpoint_never_runs(tmp_path, capsys):
    torch.save({"state": {"model": {"x": Evil()}}}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read safely: it holds .*print; save only its"):
        import_research_checkpoint(tmp_path / "evil.pt", tmp_path / "out")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {"model": collections.OrderedDict()}}, "holds no tensors"),
        ({"state": {"model": {"foreign.weight": torch.zeros(2)}}}, "was the research code used"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=message):
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")


def record(**values):
    """A checkpoint with the configuration of a Hugging Face model in the place that Composer uses."""
    return {"integrations": {"huggingface": {"model": {"config": {"class": "x", "content": values}}, "tokenizer": {}}}}


RECORD = {
    "rotary_emb_base": 10_000.0,
    "local_attn_rotary_emb_base": -1,
    "sliding_window": 16,
    "global_attn_every_n_layers": 2,
    "num_attention_heads": 4,
    "attn_out_dropout_prob": 0.1,
    "norm_kwargs": {"eps": 1e-6, "bias": False},
}


def write_state(path, model, state=(), rename=research_name):
    tensors = {rename(name): x for name, x in model.state_dict().items()}
    torch.save({"state": {"model": tensors, **dict(state)}}, path)
    return path


def test_the_record_in_a_checkpoint_takes_precedence_over_the_preset(model, tmp_path, caplog):
    caplog.set_level("INFO", "modernbert")
    path = write_state(tmp_path / "ckpt.pt", model, record(**RECORD))
    config = import_research_checkpoint(path, tmp_path / "out").config
    assert (config.global_rope_theta, config.local_rope_theta, config.local_attention) == (10_000, 10_000, 16)
    assert (config.num_attention_heads, config.attention_output_dropout, config.norm_eps) == (4, 0.1, 1e-6)
    assert config.layer_types == ("full_attention", "sliding_attention") * 2
    assert MaskedLM.from_pretrained(tmp_path / "out").config == config
    assert "records: RoPE bases 10,000.0 (global) and 10,000.0 (local), a window of 16 tokens, 4 heads" in caplog.text
    assert "come from preset" not in caplog.text


def test_an_imported_model_computes_what_the_trained_one_did(tmp_path):
    from modernbert.packed import Sequences

    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 128, "intermediate_size": 48, "num_hidden_layers": 4}
    trained = MaskedLM(
        EncoderConfig(
            **sizes, num_attention_heads=4, global_rope_theta=500.0, local_rope_theta=100.0, local_attention=6
        )
    ).eval()
    for parameter in trained.parameters():
        parameter.data.mul_(6)
    said = {"rotary_emb_base": 500.0, "local_attn_rotary_emb_base": 100.0, "sliding_window": 6}
    said |= {"global_attn_every_n_layers": 3, "num_attention_heads": 4}
    path = write_state(tmp_path / "ckpt.pt", trained, record(**said))
    imported = import_research_checkpoint(path, tmp_path / "out")
    tokens, sequences = torch.randint(0, 96, (80,)), Sequences.from_lengths([80])
    assert torch.equal(imported(tokens, sequences), trained(tokens, sequences))


@pytest.mark.parametrize(
    ("window", "every", "types"),
    [(-1, 3, {"full_attention"}), (16, -1, {"sliding_attention"}), (16, 1, {"full_attention"})],
)
def test_a_pattern_of_one_kind_is_read(window, every, types, model, tmp_path):
    said = RECORD | {"sliding_window": window, "global_attn_every_n_layers": every}
    path = write_state(tmp_path / "ckpt.pt", model, record(**said))
    assert set(import_research_checkpoint(path, tmp_path / "out").config.layer_types) == types


def test_values_that_a_checkpoint_does_not_record_are_reported(model, tmp_path, caplog):
    import_research_checkpoint(write_state(tmp_path / "ckpt.pt", model), tmp_path / "out")
    assert "global_rope_theta = 160,000.0, local_rope_theta = 10,000.0, local_attention = 128" in caplog.text
    assert "come from preset base; give --config if they differ" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "silu"),
        ("normalization", "rmsnorm"),
        ("rotary_emb_interleaved", True),
        ("bert_layer", "postnorm"),
        ("sliding_window", "x"),
        ("num_attention_heads", 7),
        ("rotary_emb_base", [1]),
    ],
)
def test_a_record_of_another_function_is_refused(name, value, model, tmp_path):
    path = write_state(tmp_path / "ckpt.pt", model, record(**RECORD | {name: value}))
    with pytest.raises(ConfigError):
        import_research_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


WRAPPED = {
    "compiled inside": lambda name: research_name(name).replace("model.", "model._orig_mod.", 1),
    "layers compiled": lambda name: research_name(name).replace(".layers.0.", ".layers.0._orig_mod."),
    "ddp and compile": lambda name: "module._orig_mod." + research_name(name),
    "fsdp": lambda name: research_name(name).replace("model.bert.", "model.bert._fsdp_wrapped_module.", 1),
}


@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_removed_from_parameter_names(rename, model, tmp_path):
    imported = import_research_checkpoint(write_state(tmp_path / "ckpt.pt", model, (), rename), tmp_path / "out")
    assert all(torch.equal(x, imported.state_dict()[name]) for name, x in model.state_dict().items())


def test_rotary_buffers_are_not_read_as_weights(model, tmp_path):
    tensors = {research_name(name): x for name, x in model.state_dict().items()}
    for layer in range(4):
        tensors[f"model.bert.encoder.layers.{layer}.attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors[f"model.bert.encoder.layers.{layer}.attn.rotary_emb._cos_cached"] = torch.ones(4, 4)
    torch.save({"state": {"model": tensors}}, tmp_path / "ckpt.pt")
    imported = import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")
    assert all(torch.equal(x, imported.state_dict()[name]) for name, x in model.state_dict().items())


def test_the_timestamps_of_composer_are_read(model, tmp_path):
    import datetime

    import numpy as np

    state = {"timestamp": {"Timestamp": {"total_wct": datetime.timedelta(1)}}, "x": [np.float64(3), np.int64(3)]}
    import_research_checkpoint(write_state(tmp_path / "ckpt.pt", model, state), tmp_path / "out")


FIRST = "model.bert.encoder.layers.0.mlp.Wo.weight"
EMBEDDING = "model.bert.embeddings.tok_embeddings.weight"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "change",
    [
        {"model.bert.encoder.layers.999999.mlp.Wo.weight": torch.zeros(2)},
        {"model.bert.encoder.layers.x.mlp.Wo.weight": torch.zeros(2)},
        {"model.bert.encoder.layers.": torch.zeros(2)},
        {"model.bert.encoder.layers.-1.mlp.Wo.weight": torch.zeros(2)},
        {FIRST: torch.zeros(3)},
        {FIRST: torch.zeros(())},
        {EMBEDDING: torch.zeros(3)},
        {EMBEDDING: torch.zeros(0, 0)},
        {EMBEDDING: torch.eye(96).to_sparse()},
        {FIRST: torch.zeros(128, 48, dtype=torch.int32)},
        {FIRST: torch.zeros(128, 48, dtype=torch.complex64)},
        {FIRST: torch.full((128, 48), float("nan"))},
        {FIRST: torch.zeros(128, 48, device="meta")},
        {FIRST: torch.zeros(128, 49)},
    ],
)
def test_hostile_tensors_are_one_sentence(change, model, tmp_path):
    tensors = {research_name(name): x for name, x in model.state_dict().items()}
    torch.save({"state": {"model": tensors | change}}, tmp_path / "ckpt.pt")
    with pytest.raises((CheckpointError, ConfigError)) as error:
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_keys_that_are_numbers_are_not_names(model, tmp_path):
    tensors = {research_name(name): x for name, x in model.state_dict().items()}
    torch.save({"state": {"model": tensors | {3: torch.zeros(2)}}}, tmp_path / "ckpt.pt")
    import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")
    torch.save({3: torch.zeros(2)}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"{}" * 100, b"\0" * 1000])
def test_a_file_of_something_else_is_one_sentence(content, tmp_path):
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")


def test_a_missing_tensor_is_named(model, tmp_path):
    tensors = {research_name(name): x for name, x in model.state_dict().items() if name != "model.final_norm.weight"}
    torch.save({"state": {"model": tensors}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"missing model\.final_norm\.weight"):
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")


def test_an_unknown_preset_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="no preset 'huge'"):
        import_research_checkpoint(write(tmp_path / "ckpt.pt", model), tmp_path / "out", preset="huge")
