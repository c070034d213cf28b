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


def test_a_config_says_what_tensors_cannot(model, tmp_path):
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
        ({"state": {"model": {"foreign.weight": torch.zeros(2)}}}, "is it of the research code"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=message):
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")


def test_a_missing_tensor_is_named(model, tmp_path):
    tensors = {research_name(name): x for name, x in model.state_dict().items() if name != "model.final_norm.weight"}
    torch.save({"state": {"model": tensors}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"missing model\.final_norm\.weight"):
        import_research_checkpoint(tmp_path / "ckpt.pt", tmp_path / "out")


def test_an_unknown_preset_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="no preset 'huge'"):
        import_research_checkpoint(write(tmp_path / "ckpt.pt", model), tmp_path / "out", preset="huge")
