"""GGUF files in llama.cpp. Needs llama-cpp-python with a llama.cpp of 2026 (0.3.36 was used)."""

import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exported import folder_of, worst_cosine
from modernbert.export.gguf_file import export_gguf
from modernbert.export.measure import SENTENCES
from modernbert.export.source import load_source
from modernbert.packed import pack
from modernbert.text.framing import encode_texts
from modernbert.text.tokenizer import load_tokenizer

pytestmark = [
    pytest.mark.peers,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # its objects close late
]
llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed", exc_type=ImportError)

LARGE = Path(__file__).parents[3] / "shared" / "models" / "english-28m"


def texts(count: int) -> list[str]:
    """Texts of several scripts, with runs of spaces, digits, marks and line breaks, in NFC."""
    chosen = random.Random(0)
    pieces = [*SENTENCES, "x  =   1\n\n\ty = 2", "it's  they'LL 1234567", "naïve cafe\u0301 e\u0301", "a\u00a0b",
              "🙂🙂 ok", "   lead", "trail   ", "\r\nwin\r\n", "ไทย हिन्दी", "[MASK] [CLS]", "<a href='x'>"]  # fmt: skip
    found = [" ".join(chosen.choices(pieces, k=chosen.randint(1, 4))) for _ in range(count)]
    return [unicodedata.normalize("NFC", text) for text in found]


def open_gguf(path: Path, length: int = 512, **options: Any) -> Any:
    return llama_cpp.Llama(
        str(path), embedding=True, n_ctx=length, n_batch=length, n_ubatch=length, n_threads=1, verbose=False, **options
    )


@pytest.fixture(params=["tiny", "english-28m"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "tiny":
        yield folder_of("embedder", tmp_path, max_position_embeddings=512)
    elif LARGE.is_dir():
        yield LARGE
    else:
        pytest.skip("the trained model is not here")


def test_llama_cpp_cuts_five_hundred_texts_into_our_ids_and_embeds_them_as_we_do(folder: Path, tmp_path: Path) -> None:
    report = export_gguf(folder, tmp_path / "out", kind="embedder")
    model = open_gguf(tmp_path / "out" / report["file"])
    given = texts(500)
    ours = encode_texts(load_tokenizer(folder), given, max_length=512).ids
    theirs = [model.tokenize(text.encode(), add_bos=True, special=False) for text in given]
    assert [one.tolist() for one in ours] == theirs
    source = load_source(folder, "embedder")
    few = range(0, 500, 10)
    with torch.inference_mode():
        wanted = np.stack(
            [source.model(*pack(torch.from_numpy(ours[n].astype(np.int64))[None]))[0].numpy() for n in few]
        )
    found = np.stack([np.array(model.embed(given[n], normalize=False)) for n in few])
    assert worst_cosine(found, wanted) > 0.9999


@pytest.mark.parametrize("kind", ["classifier", "reranker"])
def test_llama_cpp_gives_our_logits(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path, max_position_embeddings=512)
    report = export_gguf(folder, tmp_path / "out")
    model = open_gguf(tmp_path / "out" / report["file"], pooling_type=llama_cpp.LLAMA_POOLING_TYPE_RANK)
    source = load_source(folder)
    given = texts(20)
    ids = encode_texts(load_tokenizer(folder), given, max_length=512).ids
    with torch.inference_mode():
        wanted = np.stack([source.model(*pack(torch.from_numpy(one.astype(np.int64))[None]))[0].numpy() for one in ids])
    found = np.stack([np.atleast_1d(model.embed(text, normalize=False))[: wanted.shape[1]] for text in given])
    np.testing.assert_allclose(found, wanted, atol=0.01 * float(np.abs(wanted).max()))


def test_other_layer_patterns_and_smaller_dtypes_run(tmp_path: Path) -> None:
    layers = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    folder = folder_of("embedder", tmp_path, max_position_embeddings=512, layer_types=layers)
    source = load_source(folder)
    text = texts(1)[0]
    ids = encode_texts(load_tokenizer(folder), [text], max_length=512).ids[0]
    with torch.inference_mode():
        wanted = source.model(*pack(torch.from_numpy(ids.astype(np.int64))[None]))[0].numpy()
    for dtype, close in (("f32", 0.9999), ("f16", 0.999), ("bf16", 0.999), ("q8_0", 0.995)):
        export_gguf(folder, tmp_path / "out", dtype=dtype)  # type: ignore[arg-type]
        found = np.array(open_gguf(tmp_path / "out" / f"embedder-{dtype}.gguf").embed(text, normalize=False))
        assert worst_cosine(found[None], wanted[None]) > close, dtype
    assert len(json.loads((tmp_path / "out" / "export-gguf.json").read_text())["files"]) == 5
