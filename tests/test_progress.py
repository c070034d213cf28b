import io

from modernbert import progress
from modernbert.progress import Progress


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def run(monkeypatch, terminal, seconds_between):
    stream = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", seconds_between)
    with Progress(total=1000, desc="reading", miniters=1) as bar:
        for _ in range(1000):
            bar.update()
    return stream.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    assert "\rreading" in run(monkeypatch, True, 30.0)


def test_a_log_file_gets_whole_lines_without_carriage_returns(monkeypatch):
    shown = run(monkeypatch, False, 0.0)
    assert "\r" not in shown
    assert shown.endswith("\n")
    assert all(line.startswith("reading") for line in shown.splitlines())
    assert "1000/1000" in shown


def test_short_progress_writes_nothing_into_a_log_file(monkeypatch):
    assert run(monkeypatch, False, 30.0) == ""
