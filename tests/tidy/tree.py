"""The files of this repository, as the tidy tests look at them."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tapestry", "bft", "archive", "pond", "cluster")
CORES = ("tapestry", "bft", "archive", "pond/model")

MADE_HERE = {"build", "dist", "__pycache__"}


def files() -> list[Path]:
    """All files that are in git or about to be, as paths from the root.

    What was unpacked without git is taken whole, but for what the tools left there.
    """
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return sorted(walk())
    # A file that was removed but is still in the index is no longer ours.
    return sorted({Path(os.fsdecode(name)) for name in listed.split(b"\0") if (ROOT / os.fsdecode(name)).is_file()})


def walk() -> list[Path]:
    """All files below the root, without those that tools made there."""
    found = []
    for directory, subdirectories, names in os.walk(ROOT):
        subdirectories[:] = [
            name
            for name in subdirectories
            if name not in MADE_HERE and not name.endswith(".egg-info") and (name == ".ci" or not name.startswith("."))
        ]
        found += [Path(directory, name).relative_to(ROOT) for name in names]
    return found


def modules(*folders: str) -> list[Path]:
    """The Python files below these folders, or all of them."""
    python = [path for path in files() if path.suffix == ".py"]
    return [path for path in python if not folders or any(path.is_relative_to(folder) for folder in folders)]


def read(path: Path) -> str:
    """The text of a file of ours."""
    return (ROOT / path).read_text(encoding="utf-8")
