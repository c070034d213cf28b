import os
import shutil
from pathlib import Path

import pytest

from corpora import make_tokenizer
from modernbert import FillMask

PAGE = Path(__file__).parents[2] / "docs" / "own-loop.md"


@pytest.mark.slow
def test_the_loop_of_the_page_trains_and_its_folder_fills_masks(tmp_path, monkeypatch):
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("```python\n")
    code, _, _ = rest.partition("```")
    assert len(code.splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    shutil.copytree(make_tokenizer(tmp_path / "made"), tmp_path / "output" / "tokenizer")
    source = Path(os.__file__).read_text(encoding="utf-8")
    (tmp_path / "corpus.txt").write_text(source[:20_000], encoding="utf-8")
    exec(compile(code, str(PAGE), "exec"), {})
    [[candidates]] = FillMask.from_pretrained("output/mine", device="cpu")(["import [MASK]"], top_k=3)
    assert len(candidates) == 3
