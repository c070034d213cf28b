import pytest

from modernbert import demo
from modernbert.errors import DataError


def test_docstrings_are_extracted():
    source = (
        'class A:\n    """A long enough documentation string of a class."""\n    def f(self):\n        """short"""\n'
    )
    assert list(demo._docstrings(source)) == ["A long enough documentation string of a class."]
    assert list(demo._docstrings("not python at all(")) == []


def test_a_long_text_is_split_at_blank_lines_without_loss():
    text = "\n\n".join(f"paragraph {i} " + "x" * 300 for i in range(50))
    parts = list(demo._split(text))
    assert len(parts) > 3
    assert "\n\n".join(parts) == text


def test_the_terminal_curve_starts_high_and_ends_low():
    lines = demo._terminal_plot([8.0, 6.0, 4.0, 3.0, 2.0], height=5).splitlines()
    assert lines[0].startswith("  8.00 │●")
    assert lines[4].rstrip().endswith("●")


def test_a_folder_with_other_files_is_refused_and_unchanged(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="is not the folder of a demo"):
        demo.run([], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_second_demo_removes_what_the_first_one_wrote_and_nothing_else(tmp_path):
    demo._prepare_output(tmp_path)
    for name in ("run", "tokenizer", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "loss.png").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    demo._prepare_output(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [demo._MARKER, "mine", "notes.txt"]
    assert (tmp_path / "mine" / "file").read_text() == "x"


def test_a_file_as_output_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file; choose another --output"):
        demo.run([], tmp_path / "file")


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_the_demo_learns(tmp_path, capsys):
    assert demo.run([], tmp_path / "demo")
    printed = capsys.readouterr().out
    assert "Held-out accuracy" in printed
    assert (tmp_path / "demo" / "loss.png").read_bytes().startswith(b"\x89PNG")
