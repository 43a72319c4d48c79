"""Does every answer give the project it promises, and nothing of what was not asked for?"""

import json
import os
import pty
import re
import select
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import open_data_contract_standard
import pytest
import yaml
from bakery import PAYLOAD, ROOT, ROWS, Bake, constant, files_of, git, run_cookiecutter
from jsonschema import Draft201909Validator

OWN = {"project_name": "Corner Shop", "project_slug": "corner-shop", "package_name": "corner_shop"}
PLACEHOLDERS = ("flight_delays", "flight-delays", "Flight Delays")
CHOICES = {name: list(files) for name, files in constant("post_gen_project.py", "CHOICES").items()}
CI = CHOICES["ci"]
REMOTES = CHOICES["remote"]
LICENSES = CHOICES["license"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
TASKS = ["auto", "classification", "regression"]
STORES = {
    "local": ("dvc", "../../corner-shop-store"),
    "s3": ("dvc[s3]", "s3://corner-shop/dvc"),
    "gcs": ("dvc[gs]", "gs://corner-shop/dvc"),
    "azure": ("dvc[azure]", "azure://corner-shop/dvc"),
}
# What is plain to see of the hook's table, said a second time: a mistake in the table is a mistake in `expected_files` too.
ONLY_FOR = {
    ".github/workflows/ci.yml": {("ci", "github")},
    ".gitlab-ci.yml": {("ci", "gitlab")},
    ".travis.yml": {("ci", "travis")},
    "Jenkinsfile": {("ci", "jenkins")},
    "licenses/MIT.txt": set(),
    ".dvc/config.s3": set(),
    "src/corner_shop/flights.py": {("data", "example")},
    "tests/data/test_flights.py": {("data", "example")},
    "data/raw/sales.csv": {("data", "own")},
}
# Options are independent of each other, so they are cycled: each value comes up with several of every other option.
COMBINATIONS = [
    {
        "ci": CI[number % 5],
        "remote": REMOTES[number % 4],
        "license": LICENSES[(number + number // 4) % 4],
        "python_version": PYTHONS[(number // 2) % 4],
        "task": TASKS[number % 3],
        "data": ["example", "own"][(number // 3) % 2] if TASKS[number % 3] != "regression" else "own",
    }
    for number in range(20)
]


@pytest.mark.parametrize("chosen", COMBINATIONS, ids=lambda chosen: "-".join(chosen.values()))
def test_every_combination_holds_what_was_chosen_and_nothing_else(bake: Bake, tmp_path: Path, chosen: dict[str, str]) -> None:
    options = {name: value for name, value in chosen.items() if name != "data"}
    if chosen["data"] == "own":
        (tmp_path / "sales.csv").write_text(ROWS)
        options |= {
            "dataset": str(tmp_path / "sales.csv"),
            "target": "price" if options["task"] != "classification" else "colour",
        }
    project = bake(**OWN, **options)

    files = files_of(project)
    expected = expected_files(chosen)
    assert files == expected
    assert files & ONLY_FOR.keys() == {name for name, answers in ONLY_FOR.items() if answers & set(chosen.items())}
    for name in files:
        text = (project / name).read_bytes().decode("utf-8", errors="replace")
        assert not [word for word in PLACEHOLDERS if word in text or word in name], name

    about = tomllib.loads((project / "pyproject.toml").read_text())
    assert about["project"]["requires-python"] == f"=={options['python_version']}.*"
    assert about["project"]["license"] == {"Proprietary": "LicenseRef-Proprietary"}.get(options["license"], options["license"])
    assert ("example" in about["dependency-groups"]) == (chosen["data"] == "example")
    extra, url = STORES[options["remote"]]
    assert [line.split(">=")[0] for line in about["dependency-groups"]["pipeline"] if line.startswith("dvc")] == [extra]
    assert re.findall(r"url = (.*)", (project / ".dvc/config").read_text()) == [url]
    for name in {".gitlab-ci.yml", ".travis.yml", "Jenkinsfile"} & files:
        assert re.findall(r"\b3\.1\d\b", (project / name).read_text()) == [options["python_version"]]

    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s") == "Start from cookiecutter-fullmarks 0.1.0\n"
    assert git(project, "branch", "--show-current") == "main\n"
    assert git(project, "ls-files").count("\n") == len({name for name in files if not name.startswith("data/")})


def expected_files(chosen: dict[str, str]) -> set[str]:
    """Derive what a project holds from the payload and the hook's table."""
    table = constant("post_gen_project.py", "CHOICES")
    given = chosen | {"dataset": chosen["data"]}
    others = [path for option, paths in table.items() for value in paths if value != given[option] for path in paths[value]]
    dropped = {name for name in payload_files() if any(f"{name}/".startswith(f"{other}/") for other in others)}
    moved = {".dvc/config.s3", ".dvc/config.gcs", ".dvc/config.azure"} | {
        name for name in payload_files() if name.startswith("licenses/")
    }
    kept = payload_files() - dropped - moved | {"LICENSE"} | ({"data/raw/sales.csv"} if chosen["data"] == "own" else set())
    return {name.replace("flight_delays", "corner_shop") for name in kept}


def payload_files() -> set[str]:
    """List the payload without what running it in place leaves."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PAYLOAD, capture_output=True, text=True, check=True
    ).stdout
    left = constant("post_gen_project.py", "LEFTOVERS")
    return {name for name in listed.splitlines() if (PAYLOAD / name).is_file() and name.split("/")[0] not in left}


def test_a_reviewer_is_asked_the_same_wherever_the_code_is() -> None:
    asked = [".github/pull_request_template.md", ".gitlab/merge_request_templates/Default.md"]
    assert len({(PAYLOAD / name).read_bytes() for name in asked}) == 1


def test_every_file_of_the_table_of_options_is_there() -> None:
    table = constant("post_gen_project.py", "CHOICES")
    named = {name for files in table.values() for names in files.values() for name in names}
    assert {name for name in named if not (PAYLOAD / name).exists()} == set()


def test_every_choice_comes_up_with_every_other_options_choices() -> None:
    for option in ("ci", "remote", "license", "python_version", "task"):
        for other in ("ci", "remote", "license", "python_version", "task"):
            together = {(combination[option], combination[other]) for combination in COMBINATIONS}
            assert {value for value, _ in together} == {combination[option] for combination in COMBINATIONS}
            if option != other:
                assert all(len({b for a, b in together if a == value}) > 1 for value, _ in together), (option, other)


def test_the_template_says_its_version_once(template: Path) -> None:
    version = json.loads((ROOT / "cookiecutter.json").read_text())["_version"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert template.is_dir()


def test_the_twelve_questions_keep_their_names() -> None:
    questions = json.loads((ROOT / "cookiecutter.json").read_text())
    names = {name for name in questions if not name.startswith("_")}
    assert names == {
        "project_name", "project_slug", "package_name", "description", "author", "dataset", "target", "task", "remote", "ci",
        "python_version", "license",
    }  # fmt: skip
    assert set(questions["__prompts__"]) == names


def test_no_question_of_the_template_is_left_in_a_project(bake: Bake) -> None:
    project = bake()
    for name in files_of(project):
        assert "cookiecutter." not in (project / name).read_bytes().decode("utf-8", errors="replace"), name


# The user's data


@pytest.mark.parametrize(
    ("name", "goal", "kind", "table"),
    [
        ("sales.csv", "sales.csv", "csv", "sales"),
        ("Sales 2024 (final).TSV", "Sales-2024-final.tsv", "csv", "sales_2024_final"),
        ("2024.jsonl", "2024.jsonl", "json", "data_2024"),
        ("überflüge; rm -rf ~.csv", "uberfluge-rm-rf.csv", "csv", "uberfluge_rm_rf"),
        ("航班.csv", "data.csv", "csv", "data"),
        ("a.b.c.parquet", "a-b-c.parquet", "parquet", "a_b_c"),
    ],
)
def test_the_contract_begins_with_the_data_set_and_is_valid(
    bake: Bake, tmp_path: Path, name: str, goal: str, kind: str, table: str
) -> None:
    content = {"csv": ROWS, "json": '{"price": 1, "a": 1}\n{"price": 2}\n', "parquet": "PAR1.............PAR1"}[kind]
    source = tmp_path / name
    source.write_text(content.replace(",", "\t") if name.endswith("TSV") else content)
    project = bake(**OWN, dataset=str(source), target="price", task="regression")

    contract = yaml.safe_load((project / "contract.yaml").read_text())
    Draft201909Validator(standard()).validate(contract)
    assert contract["id"] == "corner-shop"
    assert contract["name"] == "Corner Shop"
    assert contract["servers"] == [{"server": "development", "type": "local", "path": f"data/raw/{goal}", "format": kind}]
    assert contract["schema"] == [
        {
            "name": table,
            "properties": [
                {"name": "price", "tags": ["target"], "customProperties": [{"property": "task", "value": "regression"}]}
            ],
        }
    ]
    assert (project / "data/raw" / goal).read_bytes() == source.read_bytes()
    assert [path.name for path in (project / "data/raw").iterdir()] == [goal]


def standard() -> Any:
    """Read the standard's own schema."""
    where = Path(open_data_contract_standard.__file__).parent
    return json.loads(next(where.rglob("schema.json")).read_text())


def test_the_examples_contract_takes_the_projects_names(bake: Bake) -> None:
    contract = yaml.safe_load((bake(**OWN) / "contract.yaml").read_text())
    assert (contract["id"], contract["name"]) == ("corner-shop", "Corner Shop")


# Git


def test_inside_a_repository_nothing_is_committed_or_staged(bake: Bake, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    project = bake(**OWN)
    assert not (project / ".git").exists()
    assert git(tmp_path, "status", "--porcelain") == "?? out/\n"


def test_a_folder_that_the_repository_ignores_is_outside_of_it(bake: Bake, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("/out/\n")
    assert (bake(**OWN) / ".git").is_dir()


def test_a_clone_of_an_empty_repository_is_filled_and_left_to_its_owner(bake: Bake, tmp_path: Path) -> None:
    clone = tmp_path / "out" / "corner-shop"
    clone.mkdir(parents=True)
    git(clone, "init", "--quiet")
    project = bake(**OWN, force=True)
    assert (project / "src/corner_shop").is_dir()
    assert "src/" in git(clone, "status", "--porcelain")


@pytest.mark.parametrize("author", ["Ada Lovelace", "…", ".,;", "<>", "山田 太郎"])
def test_the_commit_is_made_where_git_knows_nobody(
    bake: Bake, author: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tuseConfigOnly = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    project = bake(**OWN, author=author)
    expected = author if author not in {".,;", "<>"} else "Full Marks"
    assert git(project, "log", "--format=%an %ae") == f"{expected} corner-shop@localhost\n"


def test_the_commit_is_the_users_but_their_hooks_and_signatures_stay_out(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/hook-ran'\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / "ignored").write_text("*.toml\n")
    (tmp_path / "gitconfig").write_text(
        "[user]\n\tname = Grace\n\temail = grace@example.org\n"
        f"[core]\n\thooksPath = {hook.parent}\n\texcludesFile = {tmp_path}/ignored\n"
        "[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = false\n[init]\n\tdefaultBranch = trunk\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    project = bake(**OWN)
    monkeypatch.delenv("GIT_DIR")
    assert git(project, "log", "--format=%an %ae %D") == "Grace grace@example.org HEAD -> main\n"
    assert "pyproject.toml" in git(project, "ls-files")
    assert not (tmp_path / "hook-ran").exists()


# What a used working tree leaves


def test_what_runs_in_place_left_behind_does_not_come_along(template: Path, bake: Bake, tmp_path: Path) -> None:
    used = tmp_path / "used"
    shutil.copytree(template, used)
    payload = used / PAYLOAD.name
    clean = files_of(bake("clean", **OWN))
    for name in [
        ".venv/bin/python", "uv.lock", "dvc.lock", "mlflow.db", "data/rows.parquet", "models/candidate/model.txt",
        "reports/metrics.json", ".mypy_cache/x.json", ".dvc/cache/files/md5/ab/cd", ".dvc/tmp/lock", ".dvc/config.local",
        "data/raw/flights.parquet.dvc", "src/flight_delays/__pycache__/x.pyc",
    ]:  # fmt: skip
        (payload / name).parent.mkdir(parents=True, exist_ok=True)
        (payload / name).write_text("flight_delays")
    (tmp_path / "sales.csv").write_text(ROWS)
    assert files_of(bake("used-out", template=used, **OWN)) == clean
    own = bake("own", template=used, **OWN, dataset=str(tmp_path / "sales.csv"), target="price")
    assert (own / "data/raw/sales.csv").read_text() == ROWS
    assert [path.name for path in (own / "data").rglob("*")] == ["raw", "sales.csv"]


def test_files_keep_their_mode(template: Path, bake: Bake, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(template, other)
    script = other / PAYLOAD.name / "run.sh"
    script.write_text("#!/bin/sh\necho flight_delays\n")
    script.chmod(0o755)
    made = bake(template=other, **OWN) / "run.sh"
    assert made.read_text() == "#!/bin/sh\necho corner_shop\n"
    assert stat.S_IMODE(made.stat().st_mode) == 0o755


# The ways to call it


def test_from_the_command_line_it_says_what_was_made_and_what_comes_next(template: Path, tmp_path: Path) -> None:
    done = run_cookiecutter(tmp_path, str(template), "--no-input", "project_name=Corner Shop")
    assert done.returncode == 0, done.stderr
    assert "corner-shop is ready, and committed" in done.stdout
    commands = re.findall(r"^  (cd \S+|make \w+|git add)", done.stdout, flags=re.MULTILINE)
    assert commands == ["cd corner-shop", "make setup", "git add", "make pipeline", "make test", "make score"]


def test_what_lies_among_the_temporary_files_is_not_run(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "everybodys"))
    (tmp_path / "everybodys").mkdir()
    for name in ("codecs", "contextlib", "csv", "json", "re", "shutil", "tempfile", "typing", "zlib"):
        (tmp_path / "everybodys" / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    done = run_cookiecutter(tmp_path, str(template), "--no-input", "project_name=Corner Shop")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("known", "reviewer"),
    [("jane@example.org", "jane@example.org"), ("", "corner-shop@localhost"), ("not an address", "corner-shop@localhost")],
)
def test_the_reviewer_is_who_git_knows(
    bake: Bake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str, reviewer: str
) -> None:
    (tmp_path / "gitconfig").write_text(f'[user]\n\tname = Jane\n\temail = "{known}"\n' if known else "")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    rules = (bake(project_name="Corner Shop") / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    assert rules[-1] == f"* {reviewer}"


def test_from_a_git_address_and_another_directory(template: Path, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text(ROWS)
    done = run_cookiecutter(
        tmp_path, f"git+file://{template}", "--no-input", "-o", "there", "dataset=sales.csv", "target=price", "project_slug=shop"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/shop/data/raw/sales.csv").is_file()


def test_from_a_replay_file(template: Path, tmp_path: Path) -> None:
    first = run_cookiecutter(tmp_path, str(template), "--no-input", "project_name=Corner Shop", "ci=none", "-o", "first")
    replay = next(Path(yaml.safe_load(Path(os.environ["COOKIECUTTER_CONFIG"]).read_text())["replay_dir"]).glob("*.json"))
    shutil.copy(replay, tmp_path / "answers.json")
    again = run_cookiecutter(tmp_path, str(template), "--replay-file", str(tmp_path / "answers.json"), "-o", "again")
    assert (first.returncode, again.returncode) == (0, 0), again.stderr
    same = files_of(tmp_path / "first/corner-shop")
    assert files_of(tmp_path / "again/corner-shop") == same
    for name in same:
        assert (tmp_path / "first/corner-shop" / name).read_bytes() == (tmp_path / "again/corner-shop" / name).read_bytes()


def test_in_a_conversation(template: Path, tmp_path: Path) -> None:
    said = converse(
        [sys.executable, "-m", "cookiecutter", str(template)],
        tmp_path,
        ['Corner "Shop" {% raw %} {{ 7 * 7 }}', "", "", "", "", "", "It's 'for' \\", "Ada", "2", "5", "2", "3"],
    )
    assert "is ready, and committed" in said
    project = tmp_path / "corner-shop-raw-7-7"
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert about["description"] == "It's 'for' \\"
    assert about["requires-python"] == "==3.12.*"
    assert (project / "README.md").read_text().startswith('# Corner "Shop" {% raw %} {{ 7 * 7 }}\n')
    assert "s3://" in (project / ".dvc/config").read_text()
    assert not (project / ".github").exists()
    assert "BSD 3-Clause" in (project / "LICENSE").read_text()


def converse(command: list[str], where: Path, replies: list[str]) -> str:
    """Answer each question of a program that talks to a terminal."""
    main, other = pty.openpty()
    process = subprocess.Popen(command, cwd=where, stdin=other, stdout=other, stderr=other)
    os.close(other)
    said, asked, deadline = "", 0, time.monotonic() + 60
    waiting = list(replies)
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.1)[0]:
            try:
                said += os.read(main, 65536).decode()
            except OSError:  # the program has closed its side
                break
        elif waiting and said[asked:].rstrip().endswith(":"):
            asked = len(said)
            os.write(main, waiting.pop(0).encode() + b"\n")
    os.close(main)
    assert process.wait(timeout=10) == 0, said
    assert not waiting, said
    return said


def test_under_cruft_create(template: Path, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text(ROWS)
    done = subprocess.run(
        [sys.executable, "-m", "cruft", "create", str(template), "--no-input", "--extra-context",
         json.dumps(OWN | {"dataset": str(tmp_path / "sales.csv"), "target": "price"})],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cruft adds .cruft.json now: commit it too" in done.stdout
    project = tmp_path / "corner-shop"
    assert (project / "data/raw/sales.csv").read_text() == ROWS
    assert git(project, "status", "--porcelain") == "?? .cruft.json\n"


# As long and as short as names may be


@pytest.mark.parametrize("length", [1, 20, 40])
@pytest.mark.parametrize("python", ["3.11", "3.14"])
def test_the_code_is_formatted_and_linted_under_a_name_of_any_length(bake: Bake, length: int, python: str) -> None:
    package = "abcdefghi_klmnopqr_tuvwxyz_abcdefghij_lm"[:length]
    project = bake(project_slug=package.replace("_", "-"), package_name=package, python_version=python)
    for command in (["format", "--diff"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
