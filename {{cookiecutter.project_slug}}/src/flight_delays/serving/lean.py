"""How does a process stay small? Arrow imports pandas where it can, only to ask whether it was given something of it.

That takes a second and 50 MB, which a service that has no data frames can do without.
"""

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def without_pandas() -> None:
    """Let this process do as if pandas were not installed, from here on."""
    if not any(isinstance(finder, _NoPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandas())
