import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modernbert.errors import CheckpointError, DataError
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.model import folder as checkpoint


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


def test_a_dtype_can_be_requested(folder):
    assert {p.dtype for p in MaskedLM.from_pretrained(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_loaded_model_trains(folder):
    from modernbert.packed import Sequences

    model = MaskedLM.from_pretrained(folder).train()
    tokens = torch.arange(10)
    model.loss(tokens, Sequences.from_lengths([10]), tokens).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def in_parts(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_shards_of_a_model_load_like_one_file(folder):
    model = MaskedLM.from_pretrained(folder)
    in_parts(folder)
    assert equal(model, MaskedLM.from_pretrained(folder))


def test_a_tied_decoder_may_be_in_the_file(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["decoder.weight"] = tensors["model.embeddings.tok_embeddings.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert equal(make(), MaskedLM.from_pretrained(folder))


def test_the_bare_encoder_loads_from_a_model_with_a_head(folder):
    assert equal(Encoder.from_pretrained(folder), make().model)


def test_a_bare_encoder_is_not_a_masked_lm_and_its_missing_head_is_named(tmp_path):
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
        "decoder.bias is (5,) but should be (96,)",
    ):
        assert part in str(error.value)


def test_pickled_weights_are_refused_with_the_remedy(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is pickled, which is not supported: convert it"):
        MaskedLM.from_pretrained(folder)


def test_damaged_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        MaskedLM.from_pretrained(folder)


def test_an_unknown_model_is_one_sentence_without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        CheckpointError, match="There is no model 'nobody/nothing': no such folder, and no such model on the hub"
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


@pytest.mark.parametrize("there_is_a_model", [True, False])
def test_other_files_in_a_folder_stay(there_is_a_model, tmp_path):
    """A cloned repository, with or without a model."""
    folder = tmp_path / "clone"
    if there_is_a_model:
        make(num_hidden_layers=1).save_pretrained(folder)
    foreign = {".git/HEAD": "main", "README.md": "mine", "onnx/model.onnx": "mine", "modules.json": "[]"}
    for name, text in foreign.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    make().save_pretrained(folder)
    assert equal(MaskedLM.from_pretrained(folder), make())
    assert {name: (folder / name).read_text() for name in foreign} == foreign
    assert len(list(folder.iterdir())) == 6


def test_a_config_json_of_something_else_is_not_replaced(tmp_path):
    for text in ('{"port": 80}', "[]", "not JSON", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"does not describe a model"):
            make().save_pretrained(tmp_path)
        assert (tmp_path / "config.json").read_text() == text
        assert len(list(tmp_path.iterdir())) == 1


def test_a_model_can_be_saved_into_the_working_directory_that_it_was_loaded_from(folder, monkeypatch):
    monkeypatch.chdir(folder)
    MaskedLM.from_pretrained(".").save_pretrained(".")
    assert equal(MaskedLM.from_pretrained("."), make())


def test_the_parts_of_an_earlier_model_are_not_read_for_the_new_one(folder):
    in_parts(folder)
    (folder / "other.safetensors").write_bytes(b"mine")
    make(num_hidden_layers=1).save_pretrained(folder)
    assert equal(MaskedLM.from_pretrained(folder), make(num_hidden_layers=1))
    assert sorted(path.name for path in folder.glob("*.safetensors*")) == ["model.safetensors", "other.safetensors"]


def test_a_crash_while_saving_leaves_the_old_model(folder, monkeypatch):
    def broken(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\); free disk space"):
        make(num_hidden_layers=1).save_pretrained(folder)
    assert equal(MaskedLM.from_pretrained(folder), make())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_model_whose_writer_was_killed_loads_as_the_new_one(folder, tmp_path):
    make(num_hidden_layers=1).save_pretrained(tmp_path / "new")
    ready = folder / ".modernbert.0123456789ab.ready"
    (tmp_path / "new").rename(ready)
    (ready / "config.json").replace(folder / "config.json")  # the process was killed at this point
    assert equal(MaskedLM.from_pretrained(folder), make(num_hidden_layers=1))


def replace_weights(folder, **tensors):
    save_file(load_file(folder / "model.safetensors") | tensors, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.int64, torch.complex64, torch.bool])
@pytest.mark.parametrize("wanted", [None, torch.float32])
def test_weights_that_are_not_floating_point_are_refused(dtype, wanted, folder):
    replace_weights(folder, **{"head.norm.weight": torch.ones(32).to(dtype)})
    with pytest.raises(CheckpointError, match=r"holds head\.norm\.weight in .*; only float32, bfloat16"):
        MaskedLM.from_pretrained(folder, dtype=wanted)


def test_weights_of_several_dtypes_are_loaded_in_the_widest_one(folder, caplog):
    caplog.set_level("INFO", "modernbert")
    replace_weights(folder, **{"head.dense.weight": make().head.dense.weight.detach().bfloat16()})
    loaded = MaskedLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.head.dense.weight, make().head.dense.weight.bfloat16().float())
    assert "has weights in bfloat16 and float32; all are loaded in float32" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused(value, dtype, folder):
    make().to(dtype).save_pretrained(folder)
    bad = torch.ones(32, dtype=dtype)
    bad[7] = value
    replace_weights(folder, **{"head.norm.weight": bad})
    with pytest.raises(CheckpointError, match=r"head\.norm\.weight holds NaN or infinity"):
        MaskedLM.from_pretrained(folder)


def test_weights_that_a_dtype_does_not_hold_are_refused(folder):
    replace_weights(folder, **{"head.norm.weight": torch.full((32,), 1e5)})
    with pytest.raises(CheckpointError, match=r"holds 100000, too large for float16; choose bfloat16"):
        MaskedLM.from_pretrained(folder, dtype=torch.float16)
    MaskedLM.from_pretrained(folder, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["../model/model.safetensors", "/etc/passwd", "a/../../x", "..", "", "."])
def test_an_index_that_names_files_elsewhere_is_refused(name, folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="which is not in its folder"):
        MaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "[" * 100_000]
)
def test_an_index_of_wrong_types_is_one_sentence(text, folder):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        MaskedLM.from_pretrained(folder)


def test_parts_may_be_links_as_in_the_cache_of_the_hub(folder, tmp_path):
    in_parts(folder)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(list(folder.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(f"../blobs/{number}")
    assert equal(MaskedLM.from_pretrained(folder), make())


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_is_refused(source):
    with pytest.raises(CheckpointError, match="is not a model folder"):
        MaskedLM.from_pretrained(source)


def test_tokenizer_files_travel_with_the_model(folder, tmp_path):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    make().save_pretrained(folder, tokenizer=tmp_path / "tok")
    MaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_text() == "{}"
