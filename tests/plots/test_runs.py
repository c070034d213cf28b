import json
from pathlib import Path

import pytest

from modernbert.errors import ConfigError, DataError
from modernbert.plots import runs as plot
from modernbert.plots.runs import plot_runs

PHASES = ("pretrain", "context", "decay")


def write_run(folder, sources=("a", "b"), scale=1):
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, 19):
        place = {"step": step, "phase": PHASES[(step - 1) // 6], "tokens": 1000 * step * scale}
        if step == 9:
            lines.append(place | {"spike": {"loss": 12.0, "usual": 1.0, "documents": {"a": [1]}}})
        lines.append(
            place
            | {"loss": 9.0 / step, "learning_rate": 1e-3, "batch_tokens": 1000, "grad_norm": 1.0, "fill": 0.99,
               "tokens_per_second": 5e3 * scale}
        )  # fmt: skip
        if step % 6 == 0:
            result = {"loss": 3.0, "accuracy": 0.3, "bits_per_byte": 1.5, "predictions": 10}
            lines.append(place | {"validation": dict.fromkeys(sources, result)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def figure_of(monkeypatch, tmp_path):
    """The page of some runs as a matplotlib figure, not yet a file."""

    def draw(*runs):
        figures = []
        monkeypatch.setattr(plot, "save", lambda figure, _: figures.append(figure))
        plot_runs(runs, tmp_path / "page.png")
        from matplotlib import pyplot

        pyplot.close(figures[0])
        return figures[0]

    return draw


def entries(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_one_page_shows_several_runs(run, tmp_path, ending, begins):
    plot_runs([run, run], tmp_path / f"page{ending}")
    assert (tmp_path / f"page{ending}").read_bytes().startswith(begins)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"page{ending}", "run"]


def test_a_dollar_in_a_name_is_not_read_as_mathematics(figure_of, tmp_path):
    figure = figure_of(write_run(tmp_path / "lr$_a$" / "run"))
    assert figure._suptitle._preprocess_math(figure.get_suptitle()) == ("lr$_a$/run", False)


def test_the_legend_grows_with_runs_and_sources_and_never_with_their_product(tmp_path, figure_of):
    sources = tuple("abcdefg")
    runs = [write_run(tmp_path / name / "run", sources) for name in ("first", "second", "third")]
    assert entries(figure_of(runs[0])) == [*(f"{source}, held out" for source in sources), "spike"]
    of_several = entries(figure_of(*runs))
    assert of_several[:3] == ["first", "second", "third"]
    assert len(of_several) == 3 + 3


def test_every_panel_has_a_line_for_every_run(tmp_path, figure_of):
    figure = figure_of(write_run(tmp_path / "first"), write_run(tmp_path / "second", scale=3))
    assert len(figure.axes) == 9
    for panel in figure.axes:
        assert len({line.get_color() for line in panel.lines if len(line.get_xdata()) > 2}) >= 2, panel.get_title(
            "left"
        )


def test_no_measured_value_is_outside_its_panel(tmp_path, figure_of):
    figure = figure_of(*(write_run(tmp_path / str(scale), scale=scale) for scale in (1, 2, 3)))
    figure.canvas.draw()
    for panel in figure.axes:
        (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        for line in panel.lines:
            if len(line.get_xdata()) > 2:
                assert left <= min(line.get_xdata()) <= max(line.get_xdata()) <= right
                assert bottom <= min(line.get_ydata()) <= max(line.get_ydata()) <= top


def test_a_spike_is_marked_where_the_loss_jumped(run, figure_of):
    loss = figure_of(run).axes[0]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in loss.lines if line.get_marker() == "x"] == [
        ([0.009], [12.0])
    ]


def test_vertical_lines_are_where_a_phase_begins(run, figure_of):
    figure = figure_of(run)
    for panel in figure.axes:
        assert [line.get_xdata()[0] for line in panel.lines if list(line.get_ydata()) == [0, 1]] == [0.006, 0.012]
    assert [text.get_text() for text in figure.axes[0].texts] == ["context", "decay"]


def test_sources_that_runs_do_not_share_still_have_a_mean_each(tmp_path, figure_of):
    figure = figure_of(write_run(tmp_path / "first", ("a", "b")), write_run(tmp_path / "second", ("c",)))
    assert len([line for line in figure.axes[6].lines if line.get_marker() == "o"]) == 2


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/mini/run"], ["mini/run"]),
        (["/x/mini/run", "/x/tiny/run"], ["mini", "tiny"]),
        (["/x/mini/run", "/y/mini/run"], ["x", "y"]),
        (["/x/mini/run", "/x/tiny/run", "/x/other"], ["mini/run", "tiny/run", "x/other"]),
        (["/x/run", "/x/run"], ["x/run (1)", "x/run (2)"]),
        (["/run", "/x/run"], ["run", "x/run"]),
    ],
)
def test_runs_have_short_unique_names(paths, names):
    assert plot._names([Path(path) for path in paths]) == names


def test_a_directory_without_metrics_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"holds no metrics\.jsonl"):
        plot_runs([tmp_path], tmp_path / "page.png")


def test_another_suffix_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        plot_runs([run], tmp_path / "page.bmp")
