"""ONNX exports: the graph equals the packed model, and files that are not from an export are not overwritten."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from exported import batch_of, folder_of, worst_cosine
from modernbert.errors import ConfigError, DataError
from modernbert.export.graph import write_graph
from modernbert.export.onnx_folder import export_onnx, session
from modernbert.export.padded import PaddedHiddenStates, masked_attention, pool
from modernbert.export.quantize import VARIANTS, choose_variants
from modernbert.export.source import KINDS, kind_of, load_source
from modernbert.model import Encoder, EncoderConfig
from modernbert.model.pooling import Pooling
from modernbert.packed import pack, unpack

SIZES = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
LENGTHS = [[1], [31, 7], [32, 33], [65, 3, 64], [129, 40]]


def random_encoder(**changes: object) -> Encoder:
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": 4, "local_attention": 16, "initializer_range": 0.1} | changes
    return Encoder(EncoderConfig(**sizes)).eval()  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_the_padded_encoder_is_the_packed_one(left: bool, biases: bool) -> None:
    encoder = random_encoder(norm_bias=biases, attention_bias=biases, mlp_bias=biases)
    module = PaddedHiddenStates(encoder)
    for lengths in LENGTHS:
        ids, mask = batch_of(lengths, 320, left)
        wanted = unpack(encoder(*pack(ids, mask)), pack(ids, mask)[1])
        for attend in (torch.ops.modernbert_export.attention, masked_attention):
            module.encoder.attend = attend
            found = module(ids, mask)
            assert found.isfinite().all()
            torch.testing.assert_close(found * mask[..., None], wanted, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("left", [False, True])
def test_padded_pooling_is_that_of_packed_tokens(mode: str, left: bool) -> None:
    _, mask = batch_of([5, 1, 9], 10, left)
    x = torch.randn(3, 9, 8)
    wanted = Pooling((mode,))(*pack(x, mask))  # type: ignore[arg-type]
    torch.testing.assert_close(pool(x, mask, mode), wanted)  # type: ignore[arg-type]


@pytest.mark.slow
def test_one_graph_serves_every_batch_and_length_in_both_forms_of_attention(tmp_path: Path) -> None:
    """Lengths on both sides of the limits above which attention uses blocks (window) and slices (global)."""
    pytest.importorskip("onnxruntime")
    encoder = random_encoder(num_hidden_layers=2)
    write_graph(PaddedHiddenStates(encoder), ("last_hidden_state",), tmp_path / "model.onnx")
    raw = (tmp_path / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in raw, "the file names a folder of this machine"
    run = session(tmp_path / "model.onnx")
    for lengths in [*LENGTHS, [3100]]:
        ids, mask = batch_of(lengths, 320)
        tokens, sequences = pack(ids, mask)
        with torch.no_grad():
            wanted = unpack(encoder(tokens, sequences), sequences)
        found = torch.from_numpy(run(ids.numpy(), mask.numpy())["last_hidden_state"]) * mask[..., None]
        torch.testing.assert_close(found, wanted, atol=5e-5, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_padded_form_of_every_kind_equals_the_packed_model(kind: str, tmp_path: Path) -> None:
    source = load_source(folder_of(kind, tmp_path), kind)
    ids, mask = batch_of([40, 3, 64], source.model.config.vocab_size)
    wanted = source.model(*pack(ids, mask)).float()
    found = source.padded()(ids, mask)
    named = dict(zip(source.outputs, found if isinstance(found, tuple) else (found,), strict=True))
    outputs = torch.stack([named[name] for name in source.kind.compared], -1)
    compared = outputs[mask.bool()] if source.kind.by_token else outputs
    torch.testing.assert_close(compared.reshape(wanted.shape), wanted, atol=2e-5, rtol=1e-4)


def test_names_of_variants_are_checked() -> None:
    assert choose_variants("fp32, q8") == ("q8",)
    assert choose_variants("all") == tuple(VARIANTS)
    with pytest.raises(ConfigError, match=r"no variant 'int3'.*fp16"):
        choose_variants("int3")


def test_a_users_file_stays(tmp_path: Path) -> None:
    folder = folder_of("fill-mask", tmp_path)
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "onnx" / "model.onnx").write_text("mine")
    with pytest.raises(DataError, match=r"model\.onnx is not from an export.*--output"):
        export_onnx(folder, tmp_path / "out")
    assert (tmp_path / "out" / "onnx" / "model.onnx").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        export_onnx(folder, tmp_path / "file")


def test_the_kind_of_a_folder_is_what_its_files_say(tmp_path: Path) -> None:
    for kind in KINDS:
        if kind != "encoder":
            assert kind_of(folder_of(kind, tmp_path / kind)) == kind
    with pytest.raises(ConfigError, match="no kind 'robot'"):
        load_source(tmp_path, "robot")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_exported_with_parity(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path)
    report = export_onnx(folder, tmp_path / "out", kind=kind)
    [only] = report["measured"]
    assert only["file"] == "onnx/model.onnx"
    assert only["max_difference"] < 1e-4
    assert only["lowest_cosine"] > 0.999999
    assert report == json.loads((tmp_path / "out" / "export-onnx.json").read_text())
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    export_onnx(folder, tmp_path / "out", kind=kind)  # overwrites its files


@pytest.mark.slow
def test_variants_are_written_and_measured_beside_the_model(tmp_path: Path) -> None:
    folder = folder_of("embedder", tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    report = export_onnx(folder, folder, variants=choose_variants("all"))
    found = {one["file"]: one for one in report["measured"]}
    assert list(found) == ["onnx/model.onnx", *(f"onnx/{name}" for name, _ in VARIANTS.values())]
    assert report["marked"] == [name for name, one in found.items() if one["lowest_cosine"] < 0.99]
    assert found["onnx/model_fp16.onnx"]["lowest_cosine"] > 0.99999
    for name in ("model_int8", "model_uint8", "model_quantized"):
        assert found[f"onnx/{name}.onnx"]["lowest_cosine"] > 0.99
        assert found[f"onnx/{name}.onnx"]["megabytes"] < 0.4 * found["onnx/model.onnx"]["megabytes"]
    assert found["onnx/model_q4f16.onnx"]["megabytes"] < found["onnx/model_q4.onnx"]["megabytes"]
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
@pytest.mark.peers
def test_transformers_js_loads_the_folder_in_node(tmp_path: Path) -> None:
    """In the folder that NODE_PATH_TRANSFORMERS_JS names, `npm install @huggingface/transformers` was run."""
    import os
    import subprocess

    place = os.environ.get("NODE_PATH_TRANSFORMERS_JS")
    if place is None or shutil.which("node") is None:
        pytest.skip("NODE_PATH_TRANSFORMERS_JS names no folder with @huggingface/transformers, or there is no node")
    texts = ["A parser reads the whole file.", "Zürich and 東京 are far apart."]
    folder = folder_of("embedder", tmp_path)
    export_onnx(folder, tmp_path / "models" / "embedder", variants=choose_variants("q8,q4,fp16"))
    script = tmp_path / "run.mjs"
    script.write_text(
        f"""
        import {{ createRequire }} from 'node:module';
        const {{ pipeline, env }} = createRequire({json.dumps(place + "/x.js")})('@huggingface/transformers');
        env.allowRemoteModels = false; env.localModelPath = {json.dumps(str(tmp_path / "models"))};
        const result = {{}};
        for (const dtype of ['fp32', 'fp16', 'q8', 'q4']) {{
            const extractor = await pipeline('feature-extraction', 'embedder', {{ dtype }});
            const output = await extractor({json.dumps(texts)}, {{ pooling: 'mean', normalize: true }});
            result[dtype] = output.tolist();
        }}
        console.log(JSON.stringify(result));
        """
    )
    done = subprocess.run(["node", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    from modernbert import Embedder

    wanted = Embedder.from_pretrained(folder).encode(texts)
    np.testing.assert_allclose(np.array(found["fp32"]), wanted, atol=1e-5)
    for dtype, close in (("fp16", 0.9999), ("q8", 0.99), ("q4", 0.95)):
        assert worst_cosine(np.array(found[dtype]), wanted) > close
