import xml.etree.ElementTree as ElementTree

import pytest

from modernbert.bench import figure
from modernbert.bench.figure import colours_of, draw_report, draw_scaling
from modernbert.bench.report import BASELINE, OURS, Entry, Report, Result
from modernbert.bench.scaling import Cost, Point, ScalingReport
from modernbert.bench.timing import Speed
from modernbert.errors import ConfigError

MACHINE = {"processor": "a processor", "torch": "2.13.0"}
SPEED = Speed(100.0, 90.0, 110.0)


def make_report(ratios, of_documents=None):
    entries = tuple(
        Entry(name, "bf16", 0.01, tokens_per_second=SPEED if ratio else None, ratio=ratio)
        for name, ratio in ratios.items()
    )
    results = tuple(
        Result(workload, 1, of_documents, 64, 1e9, SPEED, entries) for workload in ("16 documents, longest 9", "b")
    )
    return Report("inference", "base: 22 layers", "bf16", 2, 5, MACHINE, {}, results)


@pytest.fixture
def drawn(monkeypatch):
    """The plotted figures, for inspection."""
    kept = []
    monkeypatch.setattr(figure, "save", lambda made, path: kept.append(made))
    return kept


@pytest.mark.parametrize("name", ["bench.png", "bench.svg"])
def test_a_figure_is_a_png_and_an_svg(name, tmp_path):
    draw_report(make_report({OURS: 1.5, BASELINE: 1.0, "OpenVINO": 0.7}), tmp_path / name)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "bench.svg").getroot().tag.endswith("svg")
    assert len(list(tmp_path.iterdir())) == 2


def test_bars_are_as_long_as_the_ratios_with_the_value_at_their_ends(drawn):
    draw_report(make_report({OURS: 1.5, BASELINE: 1.0, "OpenVINO": 0.7, "liar": None}), figure.Path("x.png"))
    axes = drawn[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1.5, 0.7] * 2
    assert [text.get_text() for text in axes.texts if text.get_text().endswith(" x")] == ["1.50 x", "0.70 x"] * 2
    assert [line.get_xdata()[0] for line in axes.lines] == [1]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["16 documents,\nlongest 9", "b"]
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [OURS, "OpenVINO"]
    assert drawn[0].get_suptitle() == "base: 22 layers\nbf16, threads: 2, a processor, torch 2.13.0"


def test_a_part_of_a_published_set_is_marked(drawn):
    draw_report(make_report({OURS: 1.5, BASELINE: 1.0}, of_documents=8192), figure.Path("x.png"))
    assert drawn[0].axes[0].get_yticklabels()[1].get_text() == "b\n1 of 8,192 documents"


def test_scaling_has_a_line_for_each_contestant_and_number_of_threads(drawn, tmp_path):
    points = tuple(
        Point(name, threads, tokens, 0.01, Cost(tokens + threads, 1.0, 900.0) if name == OURS or tokens < 64 else None)
        for name in (OURS, BASELINE)
        for threads in (1, 2)
        for tokens in (16, 32, 64)
    )
    draw_scaling(ScalingReport("base", "bf16", 3, MACHINE, points), tmp_path / "x.svg")
    lines = {line.get_label(): list(line.get_ydata()) for line in drawn[0].axes[0].lines}
    assert lines == {
        f"{OURS}, 1 thread": [17, 33, 65],
        f"{OURS}, 2 threads": [18, 34, 66],
        f"{BASELINE}, 1 thread": [17, 33],
        f"{BASELINE}, 2 threads": [18, 34],
    }


def test_no_two_contestants_have_the_same_colour():
    names = (OURS, BASELINE, "transformers compiled", "sentence-transformers", "ONNX Runtime", "OpenVINO")
    assert len(set(colours_of(names).values())) == len(names)


def test_a_report_that_cannot_be_plotted_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.png or \.svg"):
        draw_report(make_report({OURS: 1.5, BASELINE: 1.0}), tmp_path / "x.pdf")
    with pytest.raises(ConfigError, match="No engine was compared with transformers"):
        draw_report(make_report({BASELINE: 1.0}), tmp_path / "x.png")
    with pytest.raises(ConfigError, match="No engine was timed"):
        draw_scaling(ScalingReport("base", "bf16", 3, MACHINE, ()), tmp_path / "x.png")
