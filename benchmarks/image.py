"""How much does the image that serves install, beside the one that MLflow would build of the same model?"""

import json
import re
import subprocess
from pathlib import Path

from measure import cost, example, verdict, write

REQUIREMENTS = """
import json
from PACKAGE.tracking import _requirements

print(json.dumps(_requirements()))
"""


def main() -> None:
    """Install both sets of packages as the images do, and weigh what was installed."""
    with example() as project:
        package = next(project.glob("src/*/tracking.py")).parent.name
        dockerfile = (project / "Dockerfile").read_text(encoding="utf-8")
        left_out = re.search(r"for name in ([\w. -]+); do", dockerfile)
        options = [word for name in (left_out[1] if left_out else "").split() for word in ("--no-install-package", name)]
        serving = ["uv", "sync", "--locked", "--no-default-groups", "--group", "serving", "--no-install-project"]
        folders = {name: project / name for name in ("serve", "whole", "mlflow")}
        cost([*serving, *options], project, UV_PROJECT_ENVIRONMENT=str(folders["serve"]))
        cost(serving, project, UV_PROJECT_ENVIRONMENT=str(folders["whole"]))
        asked = subprocess.run(
            [project / ".venv/bin/python", "-W", "ignore", "-c", REQUIREMENTS.replace("PACKAGE", package)],
            cwd=project,
            capture_output=True,
            text=True,
            check=True,
        )
        cost(["uv", "venv", str(folders["mlflow"])], project)
        python = str(folders["mlflow"] / "bin/python")
        cost(["uv", "pip", "install", "--python", python, *json.loads(asked.stdout)], project)
        sizes = {name: _megabytes(folder) for name, folder in folders.items()}
        counts = {name: len(list(folder.glob("lib/python*/site-packages/*.dist-info"))) for name, folder in folders.items()}
    words = {
        "serve": "image `serve`, of a LightGBM model",
        "whole": "image `serve`, of another scikit-learn estimator",
        "mlflow": "`mlflow models build-docker`: the model's own requirements",
    }
    rows = [[words[name], str(counts[name]), f"{sizes[name]:.0f}"] for name in folders]
    kept = [verdict(f"{words[name]}, to MLflow's", sizes[name] / sizes["mlflow"], 0.5) for name in ("serve", "whole")]
    note = (
        "files as installed, without bytecode, and without the base image, which both need; MLflow's adds conda or a server to it"
    )
    write("image", "How much does the image that serves install?", ["packages of", "packages", "MB"], rows, [*kept, note])


def _megabytes(folder: Path) -> float:
    """Weigh the files of an environment; links lead to its own."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.suffix != ".pyc") / 1e6


if __name__ == "__main__":
    main()
