import logging

import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser

from modernbert.plots.finetuning import draw_confusion


def test_labels_without_a_font_are_drawn_as_boxes_with_a_warning(tmp_path, caplog):
    matrix = np.array([[3, 1], [0, 2]])
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        draw_confusion(("a", "b"), matrix, "test set", tmp_path / "plain.png")
    assert not caplog.records
    draw_confusion(("a", "\U00013000"), matrix, "test set", tmp_path / "strange.png")  # an Egyptian hieroglyph
    [record] = caplog.records
    assert "strange.png shows boxes" in record.getMessage()
    for name in ("plain.png", "strange.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("label", [r"$\foo$", "$5 to $10"])
def test_labels_are_not_read_as_mathematics(label, tmp_path, monkeypatch):
    def refuse(self, text, *others):
        raise AssertionError(f"{text} is read as mathematics")

    monkeypatch.setattr(MathTextParser, "parse", refuse)
    draw_confusion((label, "other"), np.array([[3, 1], [0, 2]]), "test set", tmp_path / "picture.png")


def test_the_packaged_font_writes_japanese_labels(tmp_path, caplog, monkeypatch):
    """The extra `japanese` alone is enough: the test hides the fonts of this machine."""
    from matplotlib import font_manager

    from modernbert.plots import finetuning

    monkeypatch.setattr(finetuning, "_WIDE_FONTS", ("IPAexGothic",))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        draw_confusion(("人名", "地名"), np.array([[3, 1], [0, 2]]), "検証データ", tmp_path / "names.png")
    assert not caplog.records
