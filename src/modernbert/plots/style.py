"""What all pictures share: colours, markers, and how a figure is drawn into a file."""

from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.files import replaced_file
from modernbert.installation import install_command

# Ten colours that people who see fewer colours tell apart too (Petroff 2021, arXiv 2107.02270).
COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
MARKERS = "os^DvPX*<>"


def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files.

    Raises:
        DataError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise DataError(f"Pictures need matplotlib: {install_command('plot')}.") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """Write a figure in the format of its ending, aside first, and forget it."""
    from matplotlib import pyplot

    with replaced_file(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix.removeprefix("."))
    pyplot.close(figure)
