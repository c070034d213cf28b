import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modernbert.errors import CheckpointError, DataError
from modernbert.model import Encoder, EncoderConfig, MaskedLM, checkpoint


def make(**changes) -> MaskedLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    return MaskedLM(EncoderConfig(**(sizes | changes)))


def equal(a, b):
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("tie", [True, False])
def test_a_saved_model_loads_equal(tie, tmp_path):
    model = make(tie_word_embeddings=tie)
    model.save_pretrained(tmp_path / "model")
    loaded = MaskedLM.from_pretrained(tmp_path / "model")
    assert equal(model, loaded)
    assert loaded.config == model.config
    assert not loaded.training
    assert (loaded.decoder.weight is loaded.model.embeddings.tok_embeddings.weight) == tie
    assert ("decoder.weight" in load_file(tmp_path / "model" / "model.safetensors")) != tie


def test_a_dtype_can_be_asked_for(folder):
    assert {p.dtype for p in MaskedLM.from_pretrained(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_loaded_model_trains(folder):
    from modernbert.packed import Sequences

    model = MaskedLM.from_pretrained(folder).train()
    tokens = torch.arange(10)
    model.loss(tokens, Sequences.from_lengths([10]), tokens).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_shards_of_a_model_load_like_one_file(folder):
    model = MaskedLM.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert equal(model, MaskedLM.from_pretrained(folder))


def test_a_tied_decoder_may_be_in_the_file(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["decoder.weight"] = tensors["model.embeddings.tok_embeddings.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert equal(make(), MaskedLM.from_pretrained(folder))


def test_the_bare_encoder_loads_from_a_model_with_a_head(folder):
    assert equal(Encoder.from_pretrained(folder), make().model)


def test_a_bare_encoder_is_no_masked_lm_and_its_missing_head_is_named(tmp_path):
    make().model.save_pretrained(tmp_path / "bare")
    assert "layers.0.attn.Wqkv.weight" in load_file(tmp_path / "bare" / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing head\.dense\.weight; missing head\.norm\.weight; missing decoder\.bias"
    ):
        MaskedLM.from_pretrained(tmp_path / "bare")


def test_missing_unexpected_and_misshaped_tensors_are_all_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.norm.weight"]
    tensors["classifier.weight"] = torch.zeros(2, 32)
    tensors["decoder.bias"] = torch.zeros(5)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        MaskedLM.from_pretrained(folder)
    for part in (
        "missing head.norm.weight",
        "unexpected classifier.weight",
        "decoder.bias is (5,) and should be (96,)",
    ):
        assert part in str(error.value)


def test_pickled_weights_are_refused_with_the_remedy(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is pickled and is not read: convert it"):
        MaskedLM.from_pretrained(folder)


def test_damaged_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        MaskedLM.from_pretrained(folder)


def test_an_unknown_model_is_one_sentence_without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        CheckpointError, match="There is no model 'nobody/nothing': no such folder here, and the hub gives none"
    ):
        MaskedLM.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_snapshot_in_the_hub_cache_is_found(folder, tmp_path):
    cache = tmp_path / "cache" / "models--someone--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots").mkdir()
    folder.rename(cache / "snapshots" / "abc")
    loaded = MaskedLM.from_pretrained("someone/model", cache_dir=tmp_path / "cache", local_files_only=True)
    assert equal(loaded, make())


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match=r"has no config\.json"):
        make().save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_crash_while_saving_leaves_the_old_model(folder, monkeypatch):
    def broken(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="No space"):
        make(num_hidden_layers=1).save_pretrained(folder)
    assert equal(MaskedLM.from_pretrained(folder), make())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_tokenizer_files_travel_with_the_model(folder, tmp_path):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    make().save_pretrained(folder, tokenizer=tmp_path / "tok")
    MaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_text() == "{}"
