"""What all pictures share: colours, markers, fonts, and saving a figure."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.files import atomic_write
from modernbert.installation import install_command

# Ten colours that are distinguishable with colour blindness too (Petroff 2021, arXiv 2107.02270).
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
    """matplotlib's pyplot with a backend that draws into files.

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


def add_packaged_font() -> None:
    """Register the Japanese font of the extra `japanese` with matplotlib, if it is installed.

    The package matplotlib-fontja is located but not imported: an import would change the font of the user's pictures.
    """
    from matplotlib import font_manager

    package = find_spec("matplotlib_fontja")
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted((Path(folder) / "fonts").glob("*.ttf")):
            if not any(font.fname == str(path) for font in font_manager.fontManager.ttflist):
                font_manager.fontManager.addfont(path)


def save(figure: Any, path: Path) -> None:
    """Write a figure atomically in the format of its suffix, and close it."""
    from matplotlib import pyplot

    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix.removeprefix("."))
    pyplot.close(figure)
