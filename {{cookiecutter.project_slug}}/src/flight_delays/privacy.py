"""Who may read the stored data? On a machine with several users, only the one who runs the pipeline."""

import os
from pathlib import Path

FOLDERS = (Path("data"), Path(".dvc"))  # rows, and DVC's cache and temporary copies of them


def close() -> None:
    """Close the folders that hold rows to all other users; where there are no POSIX modes, nothing is done.

    A closed folder keeps what is in it, whatever mode other tools give their files. Git keeps no modes, so a fresh
    checkout is closed by its first run.
    """
    if os.name == "posix":
        for folder in FOLDERS:
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
