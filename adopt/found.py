"""What is the repository that the template comes into? Looks, and changes nothing."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

NO_TARGET = "none-of-its-targets"
MAKEFILES = ("GNUmakefile", "makefile", "Makefile")  # in GNU make's order
OTHERS = ("build", "data", "dist", "docs", "models", "notebooks", "references", "reports", "scripts", "src", "tests")


class RefusedError(Exception):
    """Why nothing comes into this repository; the text says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Repository:
    """A git repository, seen from outside.

    Attributes
    ----------
    path
        Its root.
    """

    path: Path

    def text(self, name: str) -> str:
        """Read a file, if it is there."""
        path = self.path / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def has(self, *names: str) -> bool:
        """Whether one of these files is there."""
        return any((self.path / name).is_file() for name in names)

    def git(self, *arguments: str) -> str:
        """Ask git; nothing if it does not know."""
        done = subprocess.run(["git", "-C", str(self.path), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    @cached_property
    def tracked(self) -> tuple[str, ...]:
        """What git knows, or would with `git add`."""
        return tuple(filter(None, self.git("ls-files", "-coz", "--exclude-standard").split("\0")))

    @cached_property
    def branch(self) -> str:
        """The branch that changes go to."""
        remote = self.git("symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD").partition("/")[2]
        here = self.git("for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()
        usual = next((name for name in ("main", "master") if name in here), "")
        return remote or usual or self.git("symbolic-ref", "--quiet", "--short", "HEAD") or "main"

    # Python

    @cached_property
    def manager(self) -> str:
        """How its environment is made: by uv from pyproject.toml, by pip from requirements.txt or setup.py, or not at all."""
        declares = bool(re.search(r"^\[project\]", self.text("pyproject.toml"), re.MULTILINE))
        lists = bool(re.search(r"^dependencies\s*=", self.text("pyproject.toml"), re.MULTILINE))
        if declares and (self.has("uv.lock") or lists or not self.has("requirements.txt")):
            return "uv"
        return "pip" if self.has("requirements.txt", "setup.py", "pyproject.toml") else ""

    @cached_property
    def requires(self) -> str:
        """What pyproject.toml says about Python."""
        found = re.search(r"^requires-python\s*=\s*[\"'](.+?)[\"']", self.text("pyproject.toml"), re.MULTILINE)
        return found[1] if found else ""

    @cached_property
    def python(self) -> str:
        """The Python it is made for, as far as it says so."""
        found = re.search(r"\b()(3\.\d+)", self.text(".python-version")) or re.search(r"(>=|==|~=|\^)\s*(3\.\d+)", self.requires)
        return found[2] if found else ""

    @cached_property
    def packages(self) -> tuple[str, ...]:
        """Its importable packages, as paths."""
        where = {Path(name).parent for name in self.tracked if Path(name).name == "__init__.py"}
        tops = {path for path in where if len(path.parts) == (2 if path.parts[0] == "src" else 1)} if where else set()
        return tuple(sorted(path.as_posix() for path in tops if path.parts[-1] not in OTHERS))

    @cached_property
    def tests(self) -> bool:
        """Whether pytest would find something."""
        return any(re.search(r"(^|/)(test_[^/]*|[^/]*_test)\.py$", name) for name in self.tracked)

    def installs(self, tool: str) -> bool:
        """Whether its own environment holds a tool."""
        declared = self.text("pyproject.toml") + "".join(map(self.text, self.requirements))
        return bool(re.search(rf"(^|[\"'])\s*{tool}\s*([\[<>=~!;\"',]|$)", declared, re.MULTILINE))

    @cached_property
    def requirements(self) -> tuple[str, ...]:
        """Its files of requirements."""
        wanted = re.compile(r"(dev-|test-)?requirements(-dev|-test|_dev|_test|-tests)?\.txt")
        return tuple(sorted(name for name in self.tracked if wanted.fullmatch(name)))

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Its optional dependencies that checks and tests may need."""
        _, _, after = self.text("pyproject.toml").partition("[project.optional-dependencies]")
        return tuple(re.findall(r"^(dev|lint|test|tests|testing)\s*=", after.partition("\n[")[0], re.MULTILINE))

    def configures(self, tool: str, *files: str) -> bool:
        """Whether it says how a tool is to look at it."""
        return self.has(*files) or bool(re.search(rf"^\[(tool\.)?{tool}\b", self.text("pyproject.toml"), re.MULTILINE))

    # Make

    @cached_property
    def makefile(self) -> str:
        """The file that `make` reads, if there is one."""
        names = {path.name for path in self.path.iterdir()}
        return next((name for name in MAKEFILES if name in names), "")

    @cached_property
    def targets(self) -> frozenset[str]:
        """What `make` can make, as make itself tells."""
        if not self.makefile:
            return frozenset()
        environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL"}}
        done = subprocess.run(
            ["make", "--print-data-base", "--question", "--no-builtin-rules", "--no-builtin-variables", NO_TARGET],
            cwd=self.path, env=environment | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        complaints = [line for line in done.stderr.splitlines() if "***" in line and NO_TARGET not in line]
        if complaints:
            raise RefusedError(f"{self.makefile}: make cannot read it ({complaints[0].strip()}): mend it first")
        blocks = done.stdout.partition("\n# Files\n")[2].split("\n\n")
        rules = "\n".join(block for block in blocks if "# Not a target" not in block)
        return frozenset(re.findall(r"^([A-Za-z][\w.-]*):(?!.* :?= )", rules, re.MULTILINE))

    def told(self) -> str:
        """Say in a line what was found."""
        said = {
            "uv": "pyproject.toml" + (" and uv.lock" if self.has("uv.lock") else ""),
            "pip": ", ".join(self.requirements) or ("setup.py" if self.has("setup.py") else "pyproject.toml"),
        }
        parts = [
            said.get(self.manager, "no pyproject.toml, requirements.txt or setup.py"),
            "package " + ", ".join(self.packages) if self.packages else "no package",
            "tests" if self.tests else "no tests",
            *(name for name in ("dvc.yaml", "Dockerfile") if self.has(name)),
            self.makefile or "no Makefile",
        ]
        return "; ".join(parts)
