"""Is every wrong answer refused before anything is written, in one line that says what to do?"""

import ast
import contextlib
import gzip
import http.server
import json
import os
import re
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bakery import PAYLOAD, ROOT, ROWS, Bake, constant, run_cookiecutter

Refusal = Callable[..., str]
Data = Callable[..., str]


# Names and choices


@pytest.mark.parametrize(
    ("slug", "why"),
    [
        ("Shop", "small letters"),
        ("my shop", "small letters"),
        ("../shop", "small letters"),
        ("shop-", "small letters"),
        ("2shops", "a letter first"),
        ("läden", "small letters"),
        ("x" * 41, "at most 40"),
        ("yes", "YAML"),
        ("mlflow", "installs"),
        ("scikit-learn", "installs"),
    ],
)
def test_a_slug_that_is_no_project_name_is_refused(refusal: Refusal, slug: str, why: str) -> None:
    line = refusal(project_slug=slug, package_name="shop")
    assert line.startswith("project_slug: ")
    assert why in line


@pytest.mark.parametrize(
    ("package", "why"),
    [
        ("my-shop", "cannot be imported"),
        ("Shop", "cannot be imported"),
        ("1shop", "cannot be imported"),
        ("class", "keyword"),
        ("json", "Python's own module"),
        ("yaml", "something the project itself uses"),
        ("tests", "something the project itself uses"),
        ("p" * 41, "at most 40"),
    ],
)
def test_a_package_that_cannot_be_imported_is_refused(refusal: Refusal, package: str, why: str) -> None:
    line = refusal(project_slug="shop", package_name=package)
    assert line.startswith("package_name: ")
    assert why in line


def test_every_dependency_of_the_payload_is_a_name_already_taken() -> None:
    project = tomllib.loads((PAYLOAD / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + [line for group in project["dependency-groups"].values() for line in group]
    names = {re.split(r"[^\w-]", line)[0].lower().replace("-", "_") for line in wanted}
    assert names <= constant("pre_gen_project.py", "TAKEN")


def test_both_hooks_and_the_questions_know_the_same_choices() -> None:
    asked = {
        name: tuple(choices)
        for name, choices in json.loads((ROOT / "cookiecutter.json").read_text()).items()
        if isinstance(choices, list) and not name.startswith("_")
    }
    assert asked == constant("pre_gen_project.py", "CHOICES")
    files = constant("post_gen_project.py", "CHOICES")
    assert {name: set(files[name]) for name in ("ci", "license", "remote")} == {
        name: set(asked[name]) for name in ("ci", "license", "remote")
    }


def test_what_both_hooks_need_is_the_same_in_both() -> None:
    parsed = [
        ast.parse((ROOT / "hooks" / name).read_text().replace("{{", "(").replace("}}", ")"))
        for name in ("pre_gen_project.py", "post_gen_project.py")
    ]
    functions = [
        {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} for tree in parsed
    ]
    shared = {"is_rerendered", "is_url", "kind_of", "location_name"}
    assert {name: functions[0][name] for name in shared} == {name: functions[1][name] for name in shared}
    assert constant("pre_gen_project.py", "KINDS") == constant("post_gen_project.py", "KINDS")


@pytest.mark.parametrize("question", ["project_name", "author", "description"])
def test_an_empty_name_is_refused(refusal: Refusal, question: str) -> None:
    assert refusal(**{"project_slug": "shop", question: " "}) == f"{question}: is empty: give it a few words"


@pytest.mark.parametrize("question", ["project_name", "author"])
@pytest.mark.parametrize("bad", ["two\nlines", "bell\x07", "nul\x00", "line\u2028separator"])
def test_a_name_that_is_no_printable_text_is_refused(refusal: Refusal, question: str, bad: str) -> None:
    assert "which is not text" in refusal(**{"project_slug": "shop", question: bad})


def test_a_choice_that_is_none_is_refused_in_a_replay_file_as_well(template: Path, tmp_path: Path) -> None:
    answers = replayed(template) | {"ci": "teamcity"}
    (tmp_path / "replay.json").write_text(json.dumps({"cookiecutter": answers}))
    done = run_cookiecutter(tmp_path, str(template), "--replay-file", str(tmp_path / "replay.json"))
    assert done.returncode == 1
    assert "fullmarks: ci: 'teamcity' is no choice: use github, gitlab, jenkins, travis, none" in done.stderr.splitlines()
    assert not (tmp_path / "flight-delays").exists()


def replayed(template: Path) -> dict[str, object]:
    """Answer as a person does who accepts every default."""
    questions = json.loads((template / "cookiecutter.json").read_text())
    answers = {name: value[0] if isinstance(value, list) else value for name, value in questions.items() if name[:2] != "__"}
    return answers | {
        "project_slug": "flight-delays",
        "package_name": "flight_delays",
        "description": "What for.",
        "author": "Somebody",
        "_copy_without_render": ["*"],
    }


def test_on_the_command_line_a_refusal_is_an_exit_code_and_a_line(template: Path, tmp_path: Path) -> None:
    done = run_cookiecutter(tmp_path, str(template), "--no-input", "dataset=none.csv", "target=y")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("fullmarks: dataset: none.csv: no such file")]
    assert list(tmp_path.iterdir()) == []


def test_a_slug_of_several_folders_leaves_none_of_them(template: Path, tmp_path: Path) -> None:
    done = run_cookiecutter(tmp_path, str(template), "--no-input", "project_slug=a/b/c")
    assert done.returncode != 0
    assert done.stderr.startswith("fullmarks: project_slug: 'a/b/c' is no project name")
    assert list(tmp_path.iterdir()) == []


def test_without_git_the_project_is_refused(refusal: Refusal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal().startswith("git: not found on PATH: install it")


# Folders


def test_an_existing_folder_is_left_alone(template: Path, tmp_path: Path) -> None:
    mine = tmp_path / "flight-delays" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    done = run_cookiecutter(tmp_path, str(template), "--no-input")
    assert done.returncode != 0
    assert "already exists" in done.stderr + done.stdout
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_an_existing_folder_is_left_alone_even_if_told_to_overwrite(template: Path, tmp_path: Path) -> None:
    mine = tmp_path / "flight-delays" / "src" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    done = run_cookiecutter(tmp_path, str(template), "--no-input", "--overwrite-if-exists")
    assert done.returncode != 0
    assert "already holds 'src'" in done.stderr
    assert [path.name for path in (tmp_path / "flight-delays").rglob("*")] == ["src", "mine.txt"]


# Which data


def test_a_data_set_needs_a_target(refusal: Refusal, data: Data) -> None:
    assert refusal(dataset=data(), project_slug="shop", description="Sales").startswith("target: is empty: name the column")


def test_a_target_needs_a_data_set(refusal: Refusal) -> None:
    assert refusal(target="price").startswith("dataset: is empty, but the target is 'price'")


def test_the_example_is_no_regression(refusal: Refusal) -> None:
    assert refusal(task="regression").startswith("task: the flights example is a classification")


@pytest.mark.parametrize(
    "name", ["shop.xlsx", "shop", "shop.csv.zip", "shop.json", "s3://bucket/shop", "https://x.invalid/get?id=3"]
)
def test_an_unknown_kind_of_file_is_refused(refusal: Refusal, name: str) -> None:
    assert "unknown kind: use .csv" in refusal(dataset=name, target="price")


def test_an_address_of_a_kind_that_is_not_read_is_refused(refusal: Refusal) -> None:
    assert "s3:// is not read here" in refusal(dataset="s3://bucket/shop.csv", target="price")


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.jsonl.gz"])
def test_a_missing_file_is_refused(refusal: Refusal, tmp_path: Path, name: str) -> None:
    assert "no such file" in refusal(dataset=str(tmp_path / name), target="price")


def test_a_directory_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "parts.csv").mkdir()
    assert "is a directory" in refusal(dataset=str(tmp_path / "parts.csv"), target="price")


def test_a_pipe_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is no plain file" in refusal(dataset=str(tmp_path / "pipe.csv"), target="price")


# What is in it

UMLAUT = "größe,price\n1,2\n2,3\n"
JSON = '{"size": 1, "price": 9.5}\n{"size": 2, "price": 8}\n'


FAULTY_DATA = [
    ("", "shop.csv", "is empty"),
    (gzip.compress(b""), "shop.csv.gz", "is empty"),
    ("\n\n", "shop.csv", "has no header"),
    ("size,price\n", "shop.csv", "has a header but no rows"),
    ("size,price\n1,2\n", "shop.csv", "has one row only"),
    ('{"price": 1}\n', "shop.jsonl", "has one row only"),
    ("\n", "shop.jsonl", "has a header but no rows"),
    (UMLAUT.encode("latin-1"), "shop.csv", "line 1, byte 3 (0xf6) is not UTF-8: convert it"),
    (b"size,price\n1,2\n\xff,3\n", "shop.tsv", "line 3, byte 16 (0xff) is not UTF-8"),
    (gzip.compress(UMLAUT.encode("latin-1")), "shop.csv.gz", "line 1, byte 3 (0xf6) is not UTF-8"),
    (UMLAUT.encode("utf-16"), "shop.csv", "is UTF-16: save it as UTF-8"),
    (gzip.compress(ROWS.encode()), "shop.csv", "is gzip: let its name end in .gz"),
    (ROWS, "shop.csv.gz", "ends in .gz, but it is not gzip"),
    (gzip.compress(ROWS.encode())[:-20], "shop.csv.gz", "the gzip data ends too early"),
    (gzip.compress(ROWS.encode())[:10] + b"\xff" * 40, "shop.csv.gz", "damaged gzip data"),
    (b"PK\x03\x04....", "shop.csv", "is a zip archive or Excel workbook"),
    (b"PAR1....", "shop.csv", "is Parquet"),
    (ROWS, "shop.parquet", "is no whole Parquet file"),
    (b"PAR1" + b"." * 20, "shop.parquet", "is no whole Parquet file"),
    (b"PAR1", "shop.pq", "is no whole Parquet file"),
    ("size,size,price\n1,2,3\n2,3,4\n", "shop.csv", "two columns are called 'size'"),
    ('{"size": 1, "size": 2, "price": 3}\n', "shop.jsonl", "line 1: two columns are called 'size'"),
    ("price\n1\n2\n", "shop.csv", "has one column only"),
    ("size,price\n1,2\n2,3,4\n", "shop.csv", "line 3 has 3 fields by ',', the header 2"),
    ('size,price\n1,2\n2,"3\n', "shop.csv", "line 3: unexpected end of data: is a quote left open"),
    ('[{"price": 1}]\n', "shop.jsonl", "line 1 is no JSON object but a list: write one object a line"),
    ('{"price": 1}\n{"price": \n', "shop.jsonl", "line 2 is no JSON object"),
    ('{"size": 1, "price": {"net": 1}}\n', "shop.jsonl", "line 1: the target 'price' is nested"),
]


@pytest.mark.parametrize(("content", "name", "why"), FAULTY_DATA, ids=[case[-1] for case in FAULTY_DATA])
def test_data_that_cannot_be_learnt_from_is_refused(
    refusal: Refusal, data: Data, content: str | bytes, name: str, why: str
) -> None:
    line = refusal(dataset=data(content, name), target="price")
    assert line.startswith("dataset: ")
    assert name in line
    assert why in line


@pytest.mark.parametrize(
    ("content", "target", "task", "why"),
    [
        (ROWS, "Price", "auto", "'Price' is no column: did you mean 'price'? There are 'size', 'colour', 'price'"),
        (ROWS, "weight", "auto", "'weight' is no column"),
        ("size,price\n1,7\n2,7\n3,\n", "price", "auto", "'price' is '7' in all rows"),
        ("size,price\n1,\n2,NA\n3,NaN\n", "price", "auto", "'price' is null in all 3 rows"),
        ("size,price\n1,a\n2,b\n3,c\n", "price", "auto", "'price' is different in each of 3 rows"),
        ("size,price\n1,4\n2,5\n3,6\n", "price", "classification", "'price' is different in each of 3 rows"),
        ("size,price\n1,a\n2,a\n3,b\n4,c\n5,d\n", "price", "auto", "'price' has 4 classes in 5 rows"),
        ("size,price\n1,4\n2,cheap\n", "price", "regression", "'price' is 'cheap' in row 2, no number"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(
    refusal: Refusal, data: Data, content: str, target: str, task: str, why: str
) -> None:
    line = refusal(dataset=data(content), target=target, task=task)
    assert line.startswith("target: ")
    assert why in line


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (JSON, "'weight' is no column"),
        ('{"size": 1, "weight": null}\n{"size": 2}\n', "'weight' is null in all 2 rows"),
        ('{"size": 1, "weight": true}\n{"size": 2, "weight": true}\n', "'weight' is True in all rows"),
    ],
)
def test_the_same_holds_for_json_lines(refusal: Refusal, data: Data, content: str, why: str) -> None:
    assert why in refusal(dataset=data(content, "shop.ndjson"), target="weight")


GOOD_DATA = [
    ("size;price\r\n1,5;2,5\r\n2,5;3,5\r\n3,5;2,5\r\n2,5;3,5\r\n", "shop.csv", "price", "auto"),
    ("\ufeffprice,size\n1,2\n2,3\n", "shop.csv", "price", "auto"),
    ("size\tprice, net\n1\t2\n2\t3\n", "shop.csv", "price, net", "auto"),
    ("size|price\n1|2\n2|3\n", "shop.csv", "price", "auto"),
    ('"a\nb",price\n"1\n2",3\n4,5\n', "shop.csv", "price", "auto"),
    (",price\n0,2\n1,3\n", "shop.csv", "price", "auto"),
    ("size,price\n1,\n2,4\n3,5\n4,6\n", "shop.csv", "price", "regression"),
    ("size,price\n1,a\n2,a\n3,b\n4,b\n", "shop.csv", "price", "classification"),
    ("size\tprice\n1\t2\n2\t3\n", "shop.tsv", "price", "auto"),
    (gzip.compress(ROWS.encode()), "shop.CSV.GZ", "price", "auto"),
    (gzip.compress(ROWS[:30].encode()) + gzip.compress(ROWS[30:].encode()), "shop.csv.gz", "price", "auto"),
    (JSON, "shop.jsonl", "price", "auto"),
    ('{"size": 1}\n' + JSON, "json.ndjson", "price", "auto"),
    (b"PAR1" + b"." * 20 + b"PAR1", "shop.parquet", "price", "auto"),
    (ROWS, "json export.csv", "price", "auto"),
]


@pytest.mark.parametrize(
    ("content", "name", "target", "task"), GOOD_DATA, ids=[f"{case[1]} {number}" for number, case in enumerate(GOOD_DATA)]
)
def test_data_that_can_be_learnt_from_is_taken(
    bake: Bake, data: Data, content: str | bytes, name: str, target: str, task: str
) -> None:
    project = bake(dataset=data(content, name), target=target, task=task, project_slug="shop")
    copies = list((project / "data" / "raw").iterdir())
    assert [copy.read_bytes() for copy in copies] == [content.encode() if isinstance(content, str) else content]


def test_a_path_is_read_from_where_the_user_stands(template: Path, tmp_path: Path, data: Data) -> None:
    data(ROWS, "shop.csv")
    here = run_cookiecutter(tmp_path, str(template), "--no-input", "dataset=shop.csv", "target=price", standing="/")
    there = run_cookiecutter(tmp_path, str(template), "--no-input", "dataset=shop.csv", "target=price", "-o", "there")
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr


def test_a_path_that_means_two_files_is_refused(template: Path, tmp_path: Path, data: Data) -> None:
    data(ROWS, "shop.csv")
    (tmp_path / "there").mkdir()
    data(ROWS, "there/shop.csv")
    done = run_cookiecutter(tmp_path, str(template), "--no-input", "dataset=shop.csv", "target=price", "-o", "there")
    assert "give the whole path" in done.stderr


# How far it is read


def test_reading_stops_when_the_questions_are_answered(refusal: Refusal, data: Data) -> None:
    late_fault = "size,price\n1,2\n2,3\n" + "3,4\n" * 100_000
    line = refusal(dataset=data(late_fault.encode() + b"\xff,5\n", "shop.csv"), target="price")
    assert "cannot be brought into the project: line 100004" in line  # seen when copying, not before


def test_gzip_that_breaks_off_far_behind_the_first_rows_is_refused(refusal: Refusal, data: Data) -> None:
    rows = "size,price\n" + "".join(f"{number},{number % 7}\n" for number in range(300_000))
    whole = gzip.compress(rows.encode(), compresslevel=1)
    line = refusal(dataset=data(whole[: len(whole) * 9 // 10], "shop.csv.gz"), target="price")
    assert "cannot be brought into the project: the gzip data ends too early" in line


def test_a_sorted_target_is_read_until_its_second_class(bake: Bake, data: Data) -> None:
    rows = "size,late\n" + "1,no\n" * 150_000 + "2,yes\n" * 2
    assert bake(dataset=data(rows), target="late", project_slug="shop").is_dir()


def test_text_that_never_comes_back_is_refused_without_reading_it_all(refusal: Refusal, data: Data) -> None:
    rows = "size,name\n" + "".join(f"1,n{number}\n" for number in range(100_001)) + "broken\n"
    assert "different in each of 100,000 rows" in refusal(dataset=data(rows), target="name")


# From the network


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve a folder on this machine alone; `cut.csv` promises more than it sends, `shut.csv` is forbidden."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **named: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "served"), **named)  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if "shut" in self.path:
                self.send_error(403)
            elif "cut" in self.path:
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(ROWS.encode())
            else:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_data_set_comes_by_url(bake: Bake, data: Data, server: str) -> None:
    data(gzip.compress(ROWS.encode()), "served/my shop.csv.gz")
    project = bake(dataset=f"{server}/my%20shop.csv.gz?version=2", target="price", project_slug="shop")
    assert gzip.decompress((project / "data/raw/my-shop.csv.gz").read_bytes()).decode() == ROWS


def test_a_data_set_comes_by_file_url(bake: Bake, data: Data) -> None:
    path = Path(data(ROWS, "my shop.csv"))
    assert (bake(dataset=path.as_uri(), target="price", project_slug="shop") / "data/raw/my-shop.csv").is_file()


@pytest.mark.parametrize(
    ("path", "why"),
    [("none.csv", "404"), ("shut.csv", "403"), ("cut.csv", "999944 bytes are missing"), ("cut.parquet", "no whole Parquet")],
)
def test_a_download_that_fails_is_refused(refusal: Refusal, server: str, path: str, why: str) -> None:
    assert why in refusal(dataset=f"{server}/{path}", target="price", project_slug="shop")


def test_a_server_that_is_not_there_is_refused(refusal: Refusal) -> None:
    assert "Connection refused" in refusal(dataset="http://127.0.0.1:9/shop.csv", target="price", project_slug="shop")
