"""What does cookiecutter run in the helper folder, which stands in the repository? All that follows is in the modules beside."""

import json
import os
import sys
from pathlib import Path

ANSWERS = json.loads({{cookiecutter | jsonify | tojson}})  # type: ignore # noqa: F821 (cookiecutter fills it in: data, not code)

standing = (Path.cwd().parent, Path(os.environ.get("PWD", ".")))  # where a path given for the template may begin
ADOPT = next((path for path in (folder / ANSWERS["_repo_dir"] for folder in standing) if (path / "adopting.py").is_file()), None)
if ADOPT is None:
    sys.exit(f"fullmarks: {ANSWERS['_repo_dir']}: is not found from here: give the template's whole path")

sys.dont_write_bytecode = True
sys.path.insert(0, str(ADOPT.resolve()))

from adopting import main  # noqa: E402 (found by now)

sys.exit(main(ANSWERS["ci"]))
