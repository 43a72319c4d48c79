"""What is a generated project to a test? A folder with commands that are run in it, as a person does."""

import contextlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from bakery import git
from cookiecutter.main import cookiecutter

_set_up: list[Path] = []  # projects whose environment the next one may begin with


@dataclass(frozen=True)
class Made:
    """A generated project.

    Attributes
    ----------
    path
        Its folder.
    """

    path: Path

    def make(self, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make as a person would."""
        return self.run("make", *targets, **environment)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder; what ends the test before it does ends it as well, and shows its words."""
        pipe, own = subprocess.PIPE, os.environ | environment
        with subprocess.Popen(
            command, cwd=self.path, env=own, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ) as process:
            try:
                said, complained = process.communicate()
            except BaseException:
                kill(process)
                print(*(words[-3000:] for words in process.communicate()), sep="\n")
                raise
        return subprocess.CompletedProcess(command, process.returncode, said, complained)

    def set_up(self, **environment: str) -> str:
        """Run `make setup`, and give what it printed; after the first time in a test run, from an environment that is there."""
        if _set_up and not (self.path / ".venv").exists():
            move_in(_set_up[-1], self.path)
        printed = ok(self.make("setup", **environment))
        _set_up.append(self.path)
        return printed

    def python(self, code: str) -> str:
        """Run Python in the project's environment, and give what it printed."""
        command = ["uv", "run", "--no-sync", "python", "-W", "ignore", "-c", code]
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hashes(self) -> dict[str, str]:
        """Give the hash of each output of each stage, but for the registry's own."""
        stages = yaml.safe_load((self.path / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}

    @property
    def changed(self) -> set[str]:
        """What git would commit."""
        return {line[3:] for line in git(self.path, "status", "--porcelain").splitlines()}


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """Give what a command printed, having seen that it succeeded."""
    crash = done.stderr.find("Fatal Python error")  # its stack comes first; the list of modules after it is long
    stderr = done.stderr[crash:][:6000] if crash >= 0 else done.stderr[-6000:]
    assert done.returncode == 0, done.stdout[-3000:] + stderr
    return done.stdout + done.stderr


def move_in(before: Path, after: Path) -> None:
    """Give a project the environment of another one, as links, with all that Python has compiled: half a minute less."""
    own = shutil.ignore_patterns(".lock")
    shutil.copytree(before / ".venv", after / ".venv", symlinks=True, ignore=own, copy_function=os.link)
    for script in (after / ".venv/bin").iterdir():
        content = b"" if script.is_symlink() else script.read_bytes()
        if bytes(before) in content:
            mode = script.stat().st_mode
            script.unlink()  # what is linked is not to be written to
            script.write_bytes(content.replace(bytes(before), bytes(after)))
            script.chmod(mode)


def commit(made: Made, message: str) -> None:
    """Commit all that is new."""
    git(made.path, "add", "--all")
    git(made.path, "commit", "--quiet", "--message", message)


def first_model(template: Path, folder: Path) -> Made:
    """Make the example project, and a model from its first commit."""
    made = Made(Path(cookiecutter(str(template), no_input=True, output_dir=str(folder))))
    made.set_up()
    assert made.changed == {"uv.lock"}
    commit(made, "Lock the environment")
    printed = ok(made.make("pipeline"))
    assert "passed: roc_auc gain over the constant baseline" in printed
    assert {name.split("/")[0] for name in made.changed} == {"dvc.lock", "reports"}
    commit(made, "First model")
    return made


def small_shop(template: Path, folder: Path, name: str, **answers: str) -> Made:
    """Generate a project on a small data set of its own: what is sold, by size and colour."""
    rows = "".join(f"{n % 7},{'rgb'[n % 3]},{'yes' if (n * 37 % 11 + n % 7) > 8 else 'no'}\n" for n in range(600))
    (folder / "shop.csv").write_text(f"size,colour,sold\n{rows}", encoding="utf-8")
    given = {"project_name": name, "dataset": str(folder / "shop.csv"), "target": "sold"} | answers
    return Made(Path(cookiecutter(str(template), no_input=True, extra_context=given, output_dir=str(folder))))


def clone(made: Made, tmp_path: Path) -> Made:
    """Clone a project, as a colleague does."""
    git(tmp_path, "clone", "--quiet", str(made.path), "clone")
    return Made(tmp_path / "clone")


def node_packages(folder: Path, *packages: str) -> Path:
    """Install packages of Node.js in a folder, and give it; where there is no npm, the test is skipped."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: apt-get install npm")
    (folder / "package.json").write_text("{}", encoding="utf-8")
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=folder, check=True)
    return folder


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process with all its children, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-process.pid, 0)
