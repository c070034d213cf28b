"""Copy tokenizer and shards to a machine without network: one .tar.xz, with the hash of every file in it.

python recipes/english-mini/carry.py pack english-mini.tar.xz      after `modernbert tokenizer train` and `corpus`
python recipes/english-mini/carry.py unpack english-mini.tar.xz    there: the same folders, checked

It needs nothing but Python, so that a bare machine can unpack; `tar xf` reads the file too.
"""

import argparse
import hashlib
import io
import json
import lzma
import shutil
import sys
import tarfile
from pathlib import Path

FOLDER = Path("output/english-mini")
PARTS = ("tokenizer", "shards")
HASHES = "sha256.json"
# lp and pb are set for ids of two bytes: the size is 49.7 % here, and 52 % with the defaults.
FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 27, "lc": 3, "lp": 1, "pb": 1}
]


class CarryError(Exception):
    """An error that a user can fix, in one sentence."""


def pack(folder: Path, archive: Path) -> dict[str, str]:
    """Write tokenizer and shards of `folder` into one file: the same bytes for the same files. Returns the hashes."""
    names = [path for part in PARTS for path in sorted((folder / part).rglob("*")) if path.is_file()]
    names = [path for path in names if path.suffix != ".html" and not path.name.startswith(".")]
    for part in PARTS:
        if not any(path.is_relative_to(folder / part) for path in names):
            raise CarryError(f"{folder / part} holds no file; make it with the commands in README.md first.")
    hashes = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        with (
            lzma.open(partial, "wb", format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            _add(tar, HASHES, (json.dumps(hashes, indent=2) + "\n").encode())
            for path in names:
                _add(tar, str(path.relative_to(folder)), path.read_bytes())
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    return hashes


def unpack(archive: Path, folder: Path) -> dict[str, str]:
    """Write the files of an archive into `folder` and check them. Equal files stay.

    Raises:
        CarryError: the archive is damaged or of something else, or a folder in the way holds other files.
    """
    partial = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        try:
            with lzma.open(archive) as compressed, tarfile.open(fileobj=compressed, mode="r|") as tar:
                tar.extractall(partial, filter="data")
            hashes: dict[str, str] = json.loads((partial / HASHES).read_text(encoding="utf-8"))
        except (OSError, EOFError, ValueError, lzma.LZMAError, tarfile.TarError) as error:
            raise CarryError(f"{archive} cannot be unpacked ({error}); carry it again.") from None
        for name, expected in hashes.items():
            path = partial / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise CarryError(f"{name} in {archive} is damaged; carry it again.")
        for part in PARTS:
            target = folder / part
            if target.exists():
                if not _equal(folder, hashes, part):
                    raise CarryError(f"{target} is there and holds other files; remove it or choose another --folder.")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / part).rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return hashes


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A file entry without time and user."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _equal(folder: Path, hashes: dict[str, str], part: str) -> bool:
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
        for name, expected in hashes.items()
        if name.startswith(f"{part}/")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("archive", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="the folder of tokenizer/ and shards/")
    options = parser.parse_args()
    try:
        hashes = (pack if options.action == "pack" else lambda folder, archive: unpack(archive, folder))(
            options.folder, options.archive
        )
    except CarryError as error:
        print(f"carry: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{options.archive}: {options.archive.stat().st_size:,} bytes, {len(hashes)} files")


if __name__ == "__main__":
    main()
