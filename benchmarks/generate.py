"""How much longer does generating take than plain cookiecutter on a template of one file?"""

import subprocess
import tempfile
from pathlib import Path

from measure import ROOT, Cost, cost, median, verdict, write

ROUNDS = 15


def main() -> None:
    """Alternate the two, inside a repository, so that neither makes a commit."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        here = Path(folder)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(here / "fullmarks")], check=True)
        plain = here / "plain" / "{{cookiecutter.slug}}"
        plain.mkdir(parents=True)
        (plain / "README.md").write_text("# {{cookiecutter.slug}}\n", encoding="utf-8")
        (here / "plain/cookiecutter.json").write_text('{"slug": "plain-project"}', encoding="utf-8")
        subprocess.run(["git", "init", "--quiet", str(here)], check=True)
        costs: dict[str, list[Cost]] = {"plain": [], "fullmarks": []}
        for number in range(ROUNDS):
            for name, found in costs.items():
                found.append(cost(["cookiecutter", f"./{name}", "--no-input", "-o", f"out/{name}{number}"], here))
    wall = {name: median(found, "wall") for name, found in costs.items()}
    rows = [[name, f"{wall[name]:.2f}", f"{median(costs[name], 'cpu'):.2f}"] for name in costs]
    ratio = verdict("ratio of the medians, wall", wall["fullmarks"] / wall["plain"], 1.5)
    write("generate", f"How long does generating take? Median of {ROUNDS}", ["template", "wall s", "CPU s"], rows, [ratio])


if __name__ == "__main__":
    main()
