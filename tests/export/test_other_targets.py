"""GGUF, OpenVINO, sentence-transformers and PyLate: written files, and refused models with their reasons."""

import json
from pathlib import Path

import pytest
import torch

from exported import folder_of
from modernbert.errors import ConfigError, DataError
from modernbert.export.gguf_file import export_gguf
from modernbert.export.gguf_tokenizer import pre_tokenizer, tokenizer_difference
from modernbert.export.openvino_folder import export_openvino
from modernbert.export.retrieval_folder import export_pylate, export_sentence_transformers
from modernbert.model.folder import read_json
from modernbert.model.retrieval import DenseEncoder, MultiVectorEncoder
from modernbert.packed import Sequences

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PARTS = {"model": {"type": "BPE"}, "normalizer": {"type": "NFC"}, "pre_tokenizer": BYTES, "added_tokens": []}


def test_a_gguf_holds_the_weights_the_vocabulary_and_the_shape(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = folder_of("reranker", tmp_path)
    report = export_gguf(folder, tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / report["file"])
    config = read_json(folder / "config.json")
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.architecture"] == "modern-bert"
    assert "modern-bert" in values["general.name"]  # llama.cpp strips the space before [MASK] only for this name
    assert values["modern-bert.attention.sliding_window"] == config["local_attention"]
    assert values["modern-bert.attention.sliding_window_pattern"] == config["global_attn_every_n_layers"]
    assert values["modern-bert.rope.freq_base_swa"] == config["local_rope_theta"]
    assert values["tokenizer.ggml.pre"] == "modern-bert"
    assert len(values["tokenizer.ggml.tokens"]) == config["vocab_size"]
    assert values["tokenizer.ggml.bos_token_id"] == config["cls_token_id"]
    tensors = {one.name: one for one in reader.tensors}
    weights = {name: tuple(reversed(one.shape.tolist())) for name, one in tensors.items()}
    assert "blk.0.attn_norm.weight" not in weights
    assert weights["blk.1.ffn_up.weight"] == (2 * config["intermediate_size"], config["hidden_size"])
    assert weights["cls.output.weight"] == (1, config["hidden_size"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram"}}, "Unigram, not byte-level BPE"),
        ({"normalizer": {"type": "Lowercase"}}, "no normalizer Lowercase"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip"}]}}, "no normalizer Strip"),
        ({"pre_tokenizer": BYTES | {"add_prefix_space": True}}, "no pre-tokenizer with this pattern"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "no pre-tokenizer with this pattern"),
        ({"pre_tokenizer": None}, "no pre-tokenizer with this pattern"),
        ({"added_tokens": [{"content": "<x>", "lstrip": True, "rstrip": False, "single_word": False}]}, "'<x>'"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_has_a_reason(change: dict[str, object], reason: str) -> None:
    assert tokenizer_difference(PARTS) is None
    assert reason in str(tokenizer_difference(PARTS | change))


def test_the_name_of_a_pre_tokenizer_follows_from_its_pattern() -> None:
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer(PARTS) == "modern-bert"
    assert pre_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, BYTES]}}) == "smollm"
    assert pre_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits]}}) is None


def test_what_llama_cpp_cannot_run_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ConfigError, match="no biases"):
        export_gguf(folder_of("encoder", tmp_path / "biased", norm_bias=True), tmp_path / "out")
    with pytest.raises(ConfigError, match="does not support models of the kind tokens"):
        export_gguf(folder_of("tokens", tmp_path / "tokens"), tmp_path / "out")
    with pytest.raises(ConfigError, match="no GGUF dtype 'q1'"):
        export_gguf(tmp_path, tmp_path / "out", dtype="q1")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_masked_language_model_becomes_an_embedder_of_sentence_transformers(tmp_path: Path) -> None:
    folder = folder_of("fill-mask", tmp_path)
    assert export_sentence_transformers(folder, tmp_path / "out")["kind"] == "embedder"
    assert json.loads((tmp_path / "out" / "modules.json").read_text())[1]["type"].endswith("Pooling")
    tokens, sequences = torch.arange(9), Sequences.from_lengths([4, 5])
    with torch.no_grad():
        one, other = (DenseEncoder.from_pretrained(place)(tokens, sequences) for place in (folder, tmp_path / "out"))
    torch.testing.assert_close(one, other)
    with pytest.raises(ConfigError, match=r"does not support models of the kind answers.*--kind"):
        export_sentence_transformers(folder_of("answers", tmp_path / "qa"), tmp_path / "out2")
    with pytest.raises(DataError, match="is the model itself"):
        export_sentence_transformers(folder, folder)


def test_pylate_gets_its_markers_as_tokens_with_an_embedding_each(tmp_path: Path) -> None:
    folder = folder_of("fill-mask", tmp_path)
    report = export_pylate(folder, tmp_path / "out")
    assert not report["trained_projection"]
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert (settings["model_type"], settings["query_prefix"], settings["query_length"]) == ("ColBERT", "[Q] ", 32)
    model = MultiVectorEncoder.from_pretrained(tmp_path / "out")
    assert model.dimensions == 128
    names = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]
    ids = {one["content"]: one["id"] for one in names}
    assert max(ids["[Q] "], ids["[D] "]) < model.config.vocab_size
    export_pylate(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again" / "1_Dense" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "1_Dense" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "embedder", "tokens", "multi-vector"])
def test_openvino_computes_what_the_model_does(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = export_openvino(folder_of(kind, tmp_path), tmp_path / "out", kind=kind)
    [only] = report["measured"]
    assert only["max_difference"] < 1e-4
    assert only["lowest_cosine"] > 0.999999


@pytest.mark.slow
@pytest.mark.peers
def test_sentence_transformers_loads_what_is_written(tmp_path: Path) -> None:
    peer = pytest.importorskip("sentence_transformers")
    folder = folder_of("fill-mask", tmp_path)
    export_sentence_transformers(folder, tmp_path / "out")
    export_pylate(folder, tmp_path / "colbert")
    texts = ["A parser reads the whole file.", "indent!"]
    from modernbert import Embedder

    wanted = Embedder.from_pretrained(folder).encode(texts)
    found = peer.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), atol=1e-5, rtol=1e-4)
    assert peer.MultiVectorEncoder(str(tmp_path / "colbert"), device="cpu").encode_query(texts)[0].shape[-1] == 128
