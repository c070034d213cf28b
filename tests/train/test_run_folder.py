"""A run directory is used by one process at a time, and with the same data."""

import html
import json
import os
import re
import signal

import pytest

from corpora import make_shards, write_shard
from modernbert import config as toml
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.files import LOCK, in_use
from modernbert.run_metrics import Metrics
from modernbert.stream.shards import Shards
from modernbert.train import checkpoint
from modernbert.train import pretrain as module
from modernbert.train.markdown import cell, table
from modernbert.train.pretrain import pretrain
from modernbert.train.run_folder import check_inputs
from modernbert.train.stopping import StopRequest


def in_another_process(work) -> int:
    """Its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except ConfigError:
            os._exit(2)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def take(directory):
    with in_use(directory):
        pass


def test_a_directory_in_use_is_refused_with_the_process_id(tmp_path):
    with in_use(tmp_path):
        assert in_another_process(lambda: take(tmp_path)) == 2
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on .*; wait for it or stop it"):
            take(tmp_path)
    assert in_another_process(lambda: take(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_directory_whose_process_was_killed_is_free(tmp_path):
    def die():
        with in_use(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_another_process(die) == -signal.SIGKILL
    assert (tmp_path / LOCK).exists()
    take(tmp_path)


def test_a_lock_that_its_owner_has_removed_is_ignored(tmp_path, monkeypatch):
    """Another process opened the lock just before its owner removed it."""
    (tmp_path / LOCK).touch()
    opened, original = [], os.open

    def slowly(path, *arguments):
        descriptor = original(path, *arguments)
        if not opened:
            (tmp_path / LOCK).unlink()
        opened.append(path)
        return descriptor

    monkeypatch.setattr(os, "open", slowly)
    with in_use(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / LOCK).exists()


def test_two_pretraining_processes_do_not_share_a_directory(recipe_for, tmp_path, monkeypatch):
    seen = []

    def second(*_):
        with pytest.raises(ConfigError, match="is in use by process"):
            pretrain(recipe_for(tmp_path / "run"))
        seen.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Pretraining, "run", second)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe_for(tmp_path / "run"))
    assert seen
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.slow
def test_overwrite_replaces_a_finished_run_and_keeps_other_files(recipe_for, tmp_path):
    pretrain(recipe_for(tmp_path / "run"))
    (tmp_path / "run" / "notes.txt").write_text("mine")
    other = recipe_for(tmp_path / "run", seed=7)
    with pytest.raises(ConfigError, match=r"whose \[seed\] differs .* or replace it with --overwrite"):
        pretrain(other)
    assert pretrain(other, overwrite=True) == tmp_path / "run" / "final"
    assert toml.load(type(other), tmp_path / "run" / "recipe.toml").seed == 7
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_recipe_of_the_user_is_never_overwritten(recipe_for, tmp_path):
    (tmp_path / "recipe.toml").write_text("# mine\n")
    with pytest.raises(ConfigError, match="is not the recipe of a run, so nothing is overwritten"):
        pretrain(recipe_for(tmp_path), overwrite=True)
    assert (tmp_path / "recipe.toml").read_text() == "# mine\n"


def test_a_run_with_replaced_shards_of_the_same_size_is_refused(recipe_for, material, tmp_path):
    tokenizer, _ = material
    shards = make_shards(tmp_path / "shards", tokenizer)
    recipe = recipe_for(tmp_path / "run", data={"library": str(shards)})
    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    check_inputs(recipe)
    check_inputs(recipe)
    found = Shards.open(shards)
    documents = [found.document(number).tolist() for number in range(found.num_documents)]
    size = (shards / "library.ds").stat().st_size
    write_shard(shards / "library.ds", documents[::-1])
    assert (shards / "library.ds").stat().st_size == size
    with pytest.raises(ConfigError, match=r"whose data\.library changed since its start.*restore the old files"):
        check_inputs(recipe)
    (tmp_path / "run" / "inputs.json").unlink()  # as the message says
    check_inputs(recipe)


def test_data_may_change_before_the_first_checkpoint(recipe_for, material, tmp_path):
    tokenizer, _ = material
    recipe = recipe_for(tmp_path / "run", data={"library": str(make_shards(tmp_path / "shards", tokenizer))})
    check_inputs(recipe)
    make_shards(tmp_path / "shards", tokenizer, characters=500)
    check_inputs(recipe)
    saved = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert saved["data.library"] == Shards.open(tmp_path / "shards").fingerprint()


@pytest.mark.parametrize("text", ["", "[]", "3", "{"])
def test_damaged_hashes_are_an_error(text, recipe_for, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)
    (tmp_path / "run" / "inputs.json").write_text(text)
    with pytest.raises(ConfigError, match=r"inputs\.json is damaged"):
        check_inputs(recipe_for(tmp_path / "run"))


def test_a_source_with_empty_held_out_documents_is_an_error(recipe_for, tmp_path):
    for documents in ([[5] * 200, []], [[], [5] * 200]):
        write_shard(tmp_path / "shards" / "a.ds", documents)
        recipe = recipe_for(tmp_path / "run", data={"library": str(tmp_path / "shards")})
        with pytest.raises(DataError, match=r"have no token; raise validation\.fraction|has no document of"):
            pretrain(recipe)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_the_first_signal_requests_a_stop_and_the_second_interrupts(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("content", [b"\x00\xff\xfe" * 50, b"[1]\n", b'{"step": "x"}\n', b"{}\n", b"[" * 90_000, b""])
def test_reading_metrics_ends_at_an_invalid_line(content, tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + content)
    assert metrics.read() == [{"step": 1}, {"step": 2}]
    metrics.forget_after(1)
    assert metrics.read() == [{"step": 1}]


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 90_000])
def test_a_checkpoint_with_a_damaged_state_is_an_error(text, tmp_path):
    training = tmp_path / "step-00000004" / "training"
    training.mkdir(parents=True)
    (training / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        checkpoint.best(tmp_path, 1)
    (training / "sha256.json").write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.newest(tmp_path)


def test_a_damaged_checkpoint_is_renamed_besides_an_earlier_one_of_its_name(tmp_path):
    for _ in range(3):
        training = tmp_path / "step-00000004" / "training"
        training.mkdir(parents=True)
        (training / "state.json").write_text("{}")
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.newest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"damaged-step-00000004{ending}" for ending in ("", "-2", "-3")
    ]


HOSTILE = [
    "![](https://example.org/pixel.png)",
    "[click](https://example.org) <img src='https://example.org/pixel.png'> **bold** _it_ `code` ~~gone~~",
    "a | b \\| c &lt;img&gt; &#33;[x](y)",
    "![a][b] \\![c](https://example.org/pixel.png)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_are_escaped_in_a_report(text):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    page = markdown.render(table(["text", "right"], [[cell(text, 500), "x"]]))
    assert not re.search(r"<(img|a|em|strong|code|s)\b", page)
    [shown, _] = re.findall(r"<td>(.*?)</td>", page)
    assert html.unescape(shown) == text


def test_a_truncated_text_does_not_end_inside_an_escape():
    for longest in range(1, 30):
        assert cell("|[" * 20, longest).count("\\") == longest - 1
