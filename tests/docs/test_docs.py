"""The commands and programs of the documentation run."""

import gzip
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from labelled import sentences, write_csv

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    """Every line that calls the command: in code blocks, inline code, comments of recipes, and runs/."""
    found = set()
    for path in [*PAGES, *(ROOT / "recipes").rglob("*.toml"), *(ROOT / "runs").iterdir()]:
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"^(?:    |# )?(modernbert [a-z].*)$", text, re.MULTILINE))
        found.update(re.findall(r"`(modernbert [a-z][^`]*)`", text))
    return sorted(found)


def test_the_documentation_shows_commands():
    assert len(commands()) > 15


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_exists_with_its_options(line):
    from typer.main import get_command

    from modernbert.cli import app

    command, words = get_command(app), shlex.split(line, comments=True)[1:]
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_recipe_shown_in_the_pages_is_one():
    import tomllib

    from modernbert.config import parse
    from modernbert.corpus.build import CorpusRecipe
    from modernbert.train.recipe import PretrainRecipe

    shown = blocks(ROOT / "docs" / "pretraining.md", "toml") + blocks(ROOT / "docs" / "continuing.md", "toml")
    assert len(shown) == 3
    for text, kind in zip(shown, (CorpusRecipe, PretrainRecipe, PretrainRecipe), strict=True):
        parse(kind, tomllib.loads(text), "a page")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_gap_is_left_in_a_page(page):
    assert not re.findall(r"^[A-Z_]+$|TODO|TBD", page.read_text(encoding="utf-8"), re.MULTILINE)


SMALLER = {  # of the recipe in docs/pretraining.md
    'model.preset = "base"': (
        "model = { hidden_size = 128, intermediate_size = 192, num_hidden_layers = 3, num_attention_heads = 2 }\n"
        "validation = { fraction = 0.05, every_steps = 2, tokens = 4096 }"
    ),
    "warmup_tokens = 100_000_000": "warmup_tokens = 4096",
    "batch_tokens = { tokens = 4_718_592, start = 786_432, warmup_tokens = 1_000_000_000 }": (
        "batch_tokens = { tokens = 8192, start = 4096, warmup_tokens = 16_384 }"
    ),
    "tokens = 10_000_000_000": "tokens = 32_768",
    "tokens = 1_000_000_000": "tokens = 16_384",
    "tokens = 500_000_000": "tokens = 32_768",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_on_pretraining_runs_as_written(tmp_path):
    """On the sources of Python, with a smaller recipe than on the page, and its commands unchanged."""
    sources = sorted(Path(os.__file__).parent.glob("[a-z]*.py"))
    texts = [path.read_text(encoding="utf-8") for path in sources]
    long = ["\n\n".join(texts[first : first + 8]) for first in range(0, len(texts), 4)]
    (tmp_path / "texts" / "web").mkdir(parents=True)
    (tmp_path / "texts" / "repositories").mkdir()
    lines = "\n".join(json.dumps({"text": text}) for text in long).encode()
    (tmp_path / "texts" / "web" / "long.jsonl.zst").write_bytes(zstandard.compress(lines))
    for name in ("texts/all.jsonl.gz", "held-out.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(lines))
    for path in sources[:40]:
        (tmp_path / "texts" / "repositories" / path.name).symlink_to(path)
    page = ROOT / "docs" / "pretraining.md"
    corpus, recipe = blocks(page, "toml")
    for old, new in SMALLER.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "corpus.toml").write_text(corpus)
    (tmp_path / "pretrain.toml").write_text(recipe)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "2"}
    for script in blocks(page, "sh"):
        subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, check=True, timeout=280)
    assert (tmp_path / "my" / "positions.png").exists()
    assert (tmp_path / "my" / "large-start" / "config.json").exists()


def write_pairs(folder: Path, texts: list[str]) -> None:
    """The files of the readmes, for training an embedder and for embedding: a query is the beginning of its text."""
    rows = [(f"{text[:20]}?", text) for text in dict.fromkeys(texts)]
    write_csv(folder / "pairs.csv", rows, ("question", "passage"))
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (folder / "texts.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_run_as_written(tmp_path):
    """The commands of the README in order from an empty directory, those of the pages that continue from there, and the
    examples of the README, with a tiny model in place of those of the demo and the hub, and with generated texts."""
    for name in ("recipes", "runs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    readme = ROOT / "README.md"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    write_csv(tmp_path / "texts.csv", sentences(300, 1))
    write_pairs(tmp_path, [text for text, _ in sentences(40, 2)])
    pages = [ROOT / "docs" / f"{name}.md" for name in ("index", "models", "continuing", "cluster")]
    for page in (pages[0], readme, *pages[1:]):
        for script in blocks(page, "sh"):
            for name in ("answerdotai/ModernBERT-base", "nomic-ai/modernbert-embed-base"):
                script = script.replace(name, "output/tiny/run/final")
            subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, check=True, timeout=280)
    assert (tmp_path / "output" / "texts" / "confusion.png").exists()
    for page in (readme, ROOT / "docs" / "index.md", ROOT / "docs" / "how-it-works.md"):
        for code in blocks(page, "python"):
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_japanese_readme_and_page_train_on_japanese_text_as_written(tmp_path):
    """On generated sentences, with fewer tokens, and the new model in place of those of the hub."""
    shutil.copytree(ROOT / "recipes" / "japanese-tiny", tmp_path / "recipes" / "japanese-tiny")
    recipe = tmp_path / "recipes" / "japanese-tiny" / "pretrain.toml"
    shorter = re.sub(r"(?m)^tokens = [14]00_000", "tokens = 20_000", recipe.read_text(encoding="utf-8"))
    recipe.write_text(shorter.replace("warmup_tokens = 40_000", "warmup_tokens = 4000"), encoding="utf-8")
    draw = random.Random(0)
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 1500)]
    words = ["吾輩", "は", "である", "名前", *("".join(draw.choices(characters, k=2)) for _ in range(3000))]
    texts = [
        "".join(f"{''.join(draw.choices(words, k=12))}は{draw.choice(words)}である。" for _ in range(8))
        for _ in range(600)
    ]
    (tmp_path / "texts").mkdir()
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (tmp_path / "texts" / "ja.jsonl").write_text(lines, encoding="utf-8")
    rows = [
        (f"{draw.choice(words)}の{word}", label) for label, word in (("海", "海辺"), ("山", "山道")) for _ in range(60)
    ]
    write_csv(tmp_path / "texts.csv", rows)
    write_pairs(tmp_path, texts[:40])
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    scripts = blocks(ROOT / "README.ja.md", "sh")
    assert blocks(ROOT / "docs" / "japanese.md", "sh") == scripts[:1]
    for script in scripts:
        for name in ("sbintuitions/modernbert-ja-130m", "cl-nagoya/ruri-v3-30m"):
            script = script.replace(name, "output/japanese-tiny/run/final")
        subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, check=True, timeout=280)
    assert (tmp_path / "output" / "texts" / "report.md").exists()
    for code in blocks(ROOT / "README.ja.md", "python"):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_both_readmes_have_the_same_tables_of_measurements_and_links_to_the_same_pages():
    english, japanese = (ROOT / name for name in ("README.md", "README.ja.md"))
    pages = [
        set(re.findall(r"\]\((docs/[\w/-]+\.md)", page.read_text(encoding="utf-8"))) for page in (english, japanese)
    ]
    assert pages[0] == pages[1] | {"docs/benchmarks/mini.md"}  # a model of English
    factors = [
        set(re.findall(r"\b(\d+\.\d) ?(?:x|倍)", page.read_text(encoding="utf-8"))) for page in (english, japanese)
    ]
    assert factors[0] <= factors[1]
