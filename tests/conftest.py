"""Fixtures for all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer
from torch.cuda import is_available

if not is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # triton reads it once on import, and many libraries import triton

from corpora import make_shards, make_tokenizer, tiny_recipe
from modernbert.config import parse
from modernbert.kernels import native
from modernbert.text.tokenizer import load_tokenizer
from modernbert.text.tokenizer_training import train_tokenizer
from modernbert.train.recipe import PretrainRecipe

# The same examples in every run and in every process of xdist, and no limit on how fast the machine is.
settings.register_profile("modernbert", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("modernbert")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_not_ignored() -> None:
    """Tests send SIGINT to themselves and to children; under `nohup` and in background jobs it is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Disable fsync, for speed. Tests of synchronization replace this function again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Write empty figures in fine-tuning reports, since plotting takes half the time of a small run."""
    from modernbert.plots import finetuning, style

    def leave_empty(figure, path: Path) -> None:
        style.pyplot().close(figure)
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "save", leave_empty)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real texts, tasks and the published tokenizer, in a folder next to a development checkout."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "modernbert-tokenizer").is_dir():
        pytest.skip("the folder of development data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def byte_level(tokenizer_folder) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def unigram(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("unigram") / "tokenizer"
    texts = ["松友美佐紀は、日本のバドミントン選手。東京都 千代田区 " * 3, "some English words"] * 20
    train_tokenizer(texts, path, vocab_size=448, kind="unigram")
    return load_tokenizer(path)


@pytest.fixture(params=["byte_level", "unigram"], scope="session")
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[*native.LEVELS, "off"])
def level_or_off(request) -> Iterator[str]:
    """Each instruction level that this processor has, and plain PyTorch."""
    native.select(request.param)
    if request.param != "off" and (reason := native.unavailable()):
        pytest.skip(f"{request.param} {reason}")
    yield request.param
    native.select("")


@pytest.fixture(params=native.LEVELS)
def level(request) -> Iterator[str]:
    """Each instruction level of the native kernels that this processor has."""
    native.select(request.param)
    if reason := native.unavailable():
        pytest.skip(f"{request.param} {reason}")
    yield request.param
    native.select("")


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> tuple[Path, Path]:
    """A tokenizer and shards of the sources of Python."""
    folder = tmp_path_factory.mktemp("material")
    tokenizer = make_tokenizer(folder / "tokenizer")
    return tokenizer, make_shards(folder / "shards", tokenizer)


@pytest.fixture
def recipe_for(material):
    """Make the tiny recipe for a run directory, with changes of whole sections."""

    def make(run: Path, **changes) -> PretrainRecipe:
        return parse(PretrainRecipe, tiny_recipe(*material, run) | changes, "tiny")

    return make
