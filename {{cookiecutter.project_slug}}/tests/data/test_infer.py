"""Does inference propose the contract that a careful person would, and leave alone what a person wrote?"""

import csv
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.features import features
from flight_delays.infer.run import infer
from flight_delays.source import cast, connect

ROWS = 400
Columns = Mapping[str, Sequence[Any]]
SKELETON = """\
apiVersion: v3.1.0
kind: DataContract
id: made
name: Made
version: 1.0.0
status: draft
servers:
  - {{server: development, type: local, path: {path}, format: {format}}}
schema:
  - name: made
    properties:
      - {{name: {target}, tags: [target], customProperties: [{{property: task, value: {task}}}]}}
"""


def drawn(make: Callable[[random.Random], Any], rows: int = ROWS, seed: int = 1) -> list[Any]:
    random_ = random.Random(seed)
    return [make(random_) for _ in range(rows)]


def number(r: random.Random) -> float:
    return round(r.gauss(50, 10), 2)


def answer(r: random.Random) -> str:
    return "yes" if r.random() < 0.3 else "no"


LABEL = drawn(answer, seed=2)
NUMBER = drawn(number)


class Data:
    """A data set in a folder of its own, with the contract that inference writes for it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = folder / "contract.yaml"
        self.file = folder / "rows.csv"
        self._capsys = capsys

    def write(self, columns: Columns, delimiter: str = ",") -> None:
        with self.file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def skeleton(self, target: str = "late", task: str = "auto") -> None:
        kind = self.file.name.split(".")[1]
        text = SKELETON.format(path=self.file, format=kind, target=json.dumps(target), task=task)
        self.path.write_text(text, encoding="utf-8")

    def infer(self, **options: Any) -> str:
        infer(self.path, **options)
        return self._capsys.readouterr().out

    def propose(self, columns: Columns, target: str = "late", task: str = "auto", delimiter: str = ",") -> str:
        """Write the rows and a contract that names the target only; infer the rest, and give what was printed."""
        self.write(columns, delimiter)
        self.skeleton(target, task)
        return self.infer()

    def with_target(self, columns: Columns) -> str:
        rows = len(next(iter(columns.values())))
        return self.propose({**columns, "late": LABEL[:rows]})

    def entry(self, name: str) -> dict[str, Any]:
        document = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        return next(entry for entry in document["schema"][0]["properties"] if entry["name"] == name)

    def tags(self, name: str) -> set[str]:
        return set(self.entry(name).get("tags", ()))

    @property
    def contract(self) -> Contract:
        return Contract.read(self.path)


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Data:
    return Data(tmp_path, capsys)


def words(text: str) -> str:
    """Undo the folding of a table's cells as far as single lines of text go."""
    return " ".join(text.split())


# Types


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["true", "FALSE"], "boolean"),
        (["0", "1"], "integer"),
        (["yes", "no"], "string"),
        (["-3", "12", "7"], "integer"),
        (["1.0", "2.0", "3.0"], "number"),
        (["1e3", "-.5", "7"], "number"),
        (["007", "012"], "string"),
        (["12345678901234567890123", "22345678901234567890123"], "string"),
        (["nan!", "1_000"], "string"),
        (["2024-01-31", "2024-02-29"], "date"),
        (["2024-01-31 10:00:00", "2024-02-29"], "timestamp"),
        (["10:30", "23:59:59"], "time"),
        (["epoch", "infinity"], "string"),
    ],
)
def test_a_type_is_what_every_value_is(data: Data, values: list[str], kind: str) -> None:
    data.with_target({"x": NUMBER, "c": (values * ROWS)[:ROWS]})
    assert data.entry("c")["logicalType"] == kind


@pytest.mark.parametrize(
    ("pattern", "kind", "strftime"),
    [
        ("dd/MM/yyyy", "date", "%d/%m/%Y"),
        ("MM/dd/yyyy", "date", "%m/%d/%Y"),
        ("dd.MM.yyyy", "date", "%d.%m.%Y"),
        ("dd-MM-yyyy", "date", "%d-%m-%Y"),
        ("MM/dd/yy", "date", "%m/%d/%y"),
        ("yyyyMMdd", "date", "%Y%m%d"),
        ("dd MMM yyyy", "date", "%d %b %Y"),
        ("MMMM dd, yyyy", "date", "%B %d, %Y"),
        ("dd/MM/yyyy HH:mm", "timestamp", "%d/%m/%Y %H:%M"),
        ("MM/dd/yyyy hh:mm:ss a", "timestamp", "%m/%d/%Y %I:%M:%S %p"),
        ("dd.MM.yyyy HH:mm:ss", "timestamp", "%d.%m.%Y %H:%M:%S"),
    ],
)
def test_a_date_in_another_format_is_read_by_that_format(data: Data, pattern: str, kind: str, strftime: str) -> None:
    moments = [datetime(2021, 1, 1, 9, 30) + timedelta(days=row, minutes=row) for row in range(ROWS)]  # noqa: DTZ001
    data.with_target({"x": NUMBER, "c": [moment.strftime(strftime) for moment in moments]})
    assert data.entry("c")["logicalType"] == kind
    assert data.entry("c")["logicalTypeOptions"]["format"] == pattern
    with connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT ? AS c", [moments[57].strftime(strftime)])
        (read,) = connection.execute(f"SELECT {cast('c', 'VARCHAR', kind, pattern)} FROM t").fetchone() or (None,)
    assert read == (moments[57] if kind == "timestamp" else moments[57].date())


def test_a_day_and_month_that_could_be_swapped_are_reported(data: Data) -> None:
    printed = data.with_target(
        {"x": NUMBER, "c": drawn(lambda r: f"{r.randint(1, 12):02d}/{r.randint(1, 12):02d}/2021")}
    )
    assert "'c': day and month could be swapped: read as dd/MM/yyyy" in words(printed)


def test_another_column_of_the_file_settles_which_comes_first(data: Data) -> None:
    data.with_target(
        {
            "clear": drawn(lambda r: f"{r.randint(1, 12):02d}/{r.randint(1, 28):02d}/2021"),
            "unclear": drawn(lambda r: f"{r.randint(1, 12):02d}/{r.randint(1, 12):02d}/2021"),
        }
    )
    assert data.entry("unclear")["logicalTypeOptions"]["format"] == "MM/dd/yyyy"


def test_a_column_with_one_odd_value_stays_text_and_the_value_is_shown(data: Data) -> None:
    printed = data.with_target({"x": NUMBER, "c": [*range(200), "broken", *range(199)]})
    assert data.entry("c")["logicalType"] == "string"
    assert "1 of its values is no integer, the others are: 'broken'" in words(printed)


def test_an_odd_value_of_a_personal_column_is_not_shown(data: Data) -> None:
    numbers: list[Any] = drawn(lambda r: r.randrange(10**9, 10**10))
    printed = data.with_target({"x": NUMBER, "phone": [*numbers[1:], "ask Ann"]})
    assert data.entry("phone")["classification"] == "restricted"
    assert "Ann" not in printed


def test_a_comma_can_be_the_decimal_mark(data: Data) -> None:
    columns = {"x": [str(value).replace(".", ",") for value in NUMBER], "y": NUMBER, "late": LABEL}
    data.propose(columns, delimiter=";")
    assert data.entry("x")["logicalType"] == "number"
    assert data.entry("x")["customProperties"] == [{"property": "decimal", "value": ","}]
    assert data.entry("x")["logicalTypeOptions"] == data.entry("y")["logicalTypeOptions"]


def test_a_comma_before_three_digits_may_separate_thousands_so_it_is_not_guessed(data: Data) -> None:
    printed = data.with_target({"y": NUMBER, "x": drawn(lambda r: f"{r.randint(1, 9)},{r.randint(100, 999)}")})
    assert data.entry("x")["logicalType"] == "string"
    assert "its commas may separate thousands or decimals" in words(printed)


def test_a_timestamp_with_an_offset_is_read_in_utc() -> None:
    with connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT '2020-01-01T00:00:00+02:00' AS c")
        (read,) = connection.execute(f"SELECT {cast('c', 'VARCHAR', 'timestamp')} FROM t").fetchone() or (None,)
    assert read == datetime(2019, 12, 31, 22)  # noqa: DTZ001


def test_json_lines_and_parquet_give_the_types_of_the_same_text(data: Data) -> None:
    columns: Columns = {"i": [*range(ROWS)], "x": NUMBER, "b": drawn(lambda r: r.random() < 0.5), "late": LABEL}
    data.propose(columns)
    kinds = {name: data.entry(name)["logicalType"] for name in columns}
    folder = data.file.parent
    data.file = folder / "rows.jsonl"
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    data.file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data.skeleton()
    data.infer()
    assert {name: data.entry(name)["logicalType"] for name in columns} == kinds
    data.file = folder / "rows.parquet"
    pq.write_table(pa.table(columns), data.file)
    data.skeleton()
    data.infer()
    assert {name: data.entry(name)["logicalType"] for name in columns} == kinds


def test_lists_and_records_are_kept_but_are_no_features(data: Data) -> None:
    data.file = data.file.with_suffix(".parquet")
    makers: dict[str, Callable[[int], Any]] = {
        "list": lambda row: [row % 3],
        "record": lambda row: {"a": row % 3},
        "bytes": lambda row: bytes([row % 3]),
    }
    nested = {name: [make(row) for row in range(ROWS)] for name, make in makers.items()}
    pq.write_table(pa.table({"x": NUMBER, "late": LABEL, **nested}), data.file)
    data.skeleton()
    data.infer()
    assert all(data.entry(name)["logicalType"] == "string" and not data.tags(name) for name in nested)
    assert data.contract.features[0].name == "x"


def test_nan_in_parquet_is_null(data: Data) -> None:
    data.file = data.file.with_suffix(".parquet")
    pq.write_table(pa.table({"x": [float("nan"), *NUMBER[1:]], "y": NUMBER, "late": LABEL}), data.file)
    data.skeleton()
    data.infer()
    assert "required" not in data.entry("x")
    assert data.entry("y")["required"] is True


# Roles


def test_an_identifier_that_names_each_row_is_the_key_and_no_feature(data: Data) -> None:
    data.with_target({"order_id": [*range(ROWS)], "x": NUMBER})
    assert data.tags("order_id") == {"key"}
    assert data.entry("order_id")["unique"] is True


def test_an_amount_that_happens_to_be_unique_stays_a_feature(data: Data) -> None:
    data.with_target({"income": drawn(lambda r: r.randrange(10**9)), "x": NUMBER})
    assert data.tags("income") == {"feature"}


def test_an_identifier_and_the_time_can_name_a_row_together(data: Data) -> None:
    days = [f"2021-{1 + row // 40:02d}-{1 + row // 4 % 10:02d}" for row in range(ROWS)]
    data.with_target({"day": days, "shop_id": [row % 4 for row in range(ROWS)], "x": NUMBER})
    assert [key.name for key in data.contract.keys] == ["day", "shop_id"]
    assert not {"feature"} & data.tags("shop_id")


def test_a_repeated_identifier_is_no_feature(data: Data) -> None:
    data.with_target({"customer_id": drawn(lambda r: r.randrange(150)), "x": NUMBER})
    assert data.tags("customer_id") == set()


def test_constant_and_empty_columns_are_kept_but_are_no_features(data: Data) -> None:
    printed = data.with_target({"same": [7] * ROWS, "empty": [""] * ROWS, "x": NUMBER})
    assert data.tags("same") == data.tags("empty") == set()
    assert "the same in every row" in words(printed)
    assert "empty in every row" in words(printed)


def test_text_that_hardly_repeats_and_long_text_are_no_features_but_many_short_categories_are(data: Data) -> None:
    data.with_target(
        {
            "remark": [f"remark {row // 1.5}" for row in range(ROWS)],
            "story": drawn(lambda r: f"a long story that tells the same thing as {r.randrange(120)} others"),
            "town": drawn(lambda r: f"town {r.randrange(150)}"),
        }
    )
    assert data.tags("remark") == data.tags("story") == set()
    assert data.tags("town") == {"feature"}
    assert "enum" not in data.entry("town")


def test_the_time_of_the_event_is_found_by_its_name_and_gives_only_parts_that_come_again(data: Data) -> None:
    moments = [datetime(2021, 1, 1) + timedelta(hours=53 * row) for row in range(ROWS)]  # noqa: DTZ001
    printed = data.with_target(
        {
            "updated_at": [str(moment + timedelta(hours=1)) for moment in moments],
            "ordered_at": [str(moment) for moment in moments],
            "x": NUMBER,
        }
    )
    assert data.tags("ordered_at") == {"time", "feature"}
    assert data.entry("ordered_at")["customProperties"] == [{"property": "parts", "value": ["hour", "weekday"]}]
    assert data.entry("ordered_at")["logicalTypeOptions"] == {"minimum": "2021-01-01T00:00:00"}
    assert "'ordered_at': taken as the event's time rather than 'updated_at'" in words(printed)
    assert {"x", "ordered_at.hour", "ordered_at.weekday"} <= {feature.name for feature in features(data.contract)}


def test_a_date_with_gaps_is_not_the_time_of_the_event(data: Data) -> None:
    days = [f"2021-01-{1 + row % 28:02d}" for row in range(ROWS)]
    data.with_target({"day": ["", *days[1:]], "x": NUMBER})
    assert data.tags("day") == {"feature"}
    assert data.contract.time is None


def test_few_values_of_text_make_a_slice_and_three_are_enough(data: Data) -> None:
    columns = {name: drawn(lambda r: r.choice("abc"), seed=seed) for seed, name in enumerate("pqrst")}
    data.with_target(columns)
    assert [column.name for column in data.contract.slices] == ["p", "q", "r"]


def test_many_values_or_one_that_nearly_all_rows_have_make_no_slice(data: Data) -> None:
    many = drawn(lambda r: r.choice("abcdefghijklmnopqrst"))
    data.with_target({"many": many, "same": ["b", *["a"] * 398, "b"], "few": [letter < "k" for letter in many]})
    assert [column.name for column in data.contract.slices] == ["few"]


def test_a_column_that_groups_people_is_tagged_so(data: Data) -> None:
    printed = data.with_target({"sex": drawn(lambda r: r.choice("mf")), "x": NUMBER})
    assert {"feature", "group"} <= data.tags("sex")
    assert "Look at 'sex': a group of people: drop its tag `feature` if it must not decide" in words(printed)


# Leakage


@pytest.mark.parametrize(
    "leak",
    [
        ["late by far" if value == "yes" else "in time" for value in LABEL],
        [100 + row / 1000 if value == "yes" else row / 1000 for row, value in enumerate(LABEL)],
        [row * 1.5 if value == "yes" else "" for row, value in enumerate(LABEL)],
    ],
    ids=["text", "number", "null pattern"],
)
def test_a_column_that_gives_two_classes_away_is_no_feature(data: Data, leak: list[Any]) -> None:
    printed = data.with_target({"x": NUMBER, "leak": leak})
    assert data.tags("leak") == set()
    assert "target away" in printed
    assert data.tags("x") == {"feature"}


def test_a_column_that_gives_several_classes_away_is_no_feature(data: Data) -> None:
    classes = drawn(lambda r: r.choice("abc"))
    data.propose({"leak": [f"group {value}" for value in classes], "x": NUMBER, "late": classes})
    assert data.tags("leak") == set()
    assert data.tags("x") == {"feature"}


@pytest.mark.parametrize("leak", [lambda y: 1.2 * y + 3, lambda y: y**3], ids=["scaled", "bent"])
def test_a_column_that_gives_an_amount_away_is_no_feature(data: Data, leak: Callable[[float], float]) -> None:
    printed = data.propose({"leak": [leak(y) for y in NUMBER], "x": drawn(number, seed=9), "cost": NUMBER}, "cost")
    assert data.tags("leak") == set()
    assert data.tags("x") == {"feature"}
    assert "Look at 'leak': gives the target away" in words(printed)


def test_a_column_whose_nulls_give_the_target_away_is_named_so(data: Data) -> None:
    printed = data.with_target(
        {"x": NUMBER, "reason": [row * 1.5 if LABEL[row] == "yes" else "" for row in range(ROWS)]}
    )
    assert data.tags("reason") == set()
    assert "whether it is empty" in data.path.read_text(encoding="utf-8")
    assert "Look at 'reason': gives the target away" in words(printed)


def test_a_leak_shows_in_a_hundred_rows_too(data: Data) -> None:
    labels = drawn(answer, 120, seed=2)
    leak = [(value == "yes") * 100 + row / 7 for row, value in enumerate(labels)]
    data.propose({"leak": leak, "x": NUMBER[:120], "late": labels})
    assert data.tags("leak") == set()


def test_a_good_feature_is_no_leak(data: Data) -> None:
    noise = drawn(lambda r: r.gauss(0, 1), seed=4)
    good = [(value == "yes") * 2 + error for value, error in zip(LABEL, noise, strict=True)]
    data.with_target({"good": good, "x": NUMBER})
    assert data.tags("good") == {"feature"}


def test_rows_that_stand_several_times_make_no_leak(data: Data) -> None:
    places, labels = [f"place {row}" for row in range(133)], LABEL[:133]
    data.propose({"place": places * 3, "x": NUMBER[:399], "late": labels * 3})
    assert data.tags("place") == {"feature"}


# Rules


def test_a_range_has_half_of_itself_to_spare_and_does_not_cross_zero(data: Data) -> None:
    data.with_target({"up": [100 + row / 4 for row in range(ROWS)], "low": [row % 11 for row in range(ROWS)]})
    assert data.entry("up")["logicalTypeOptions"] == {"minimum": 50, "maximum": 250}
    assert data.entry("low")["logicalTypeOptions"] == {"minimum": 0, "maximum": 15}


def test_the_mean_is_bounded_so_that_another_unit_shows(data: Data) -> None:
    data.with_target({"celsius": drawn(lambda r: r.gauss(20, 8)), "x": NUMBER})
    data.write({"celsius": drawn(lambda r: r.gauss(20, 8) * 1.8 + 32), "x": NUMBER, "late": LABEL})
    assert re.search(r"celsius +mean", data.infer())


def test_nulls_are_allowed_where_there_are_some_and_only_about_as_many(data: Data) -> None:
    data.with_target({"x": NUMBER, "some": ["", *NUMBER[1:300], *[""] * 100]})
    assert data.entry("x")["required"] is True
    assert "required" not in data.entry("some")
    (column,) = [column for column in data.contract.columns if column.name == "some"]
    assert 0.26 < column.max_null_share < 0.6


def test_text_with_few_values_lists_them_and_readers_of_any_yaml_take_them_for_text(data: Data) -> None:
    values = ["NO", "on", "1e3", "null value", "2021-01-01", "a: b", "~x", "'", "#1"]
    data.with_target({"c": (values * ROWS)[:ROWS], "x": NUMBER})
    (column,) = [column for column in data.contract.columns if column.name == "c"]
    assert sorted(column.values) == sorted(values)


def test_values_of_a_personal_column_stand_nowhere(data: Data) -> None:
    mails = [f"ann{row % 30}@example.org" for row in range(ROWS)]
    days = [f"19{50 + row % 40}-03-{1 + row % 28:02d}" for row in range(ROWS)]
    printed = data.with_target({"contact": mails, "birth_date": days, "x": NUMBER})
    for text in (printed, data.path.read_text(encoding="utf-8")):
        assert "@" not in text
        unwrapped = "".join(text.split()).replace(str(data.path.parent), "")  # a folder's name may hold any number
        assert "19" not in unwrapped
    assert data.entry("contact") == {
        "name": "contact",
        "logicalType": "string",
        "required": True,
        "classification": "restricted",
    }


# The target


def test_two_classes_stand_in_the_order_no_yes_and_otherwise_the_rarer_last(data: Data) -> None:
    data.propose({"x": NUMBER, "late": ["no" if value == "yes" else "yes" for value in LABEL]})
    assert data.contract.classes == ("no", "yes")
    data.propose({"x": NUMBER, "late": ["bad" if value == "yes" else "good" for value in LABEL]})
    assert data.contract.classes == ("good", "bad")
    data.propose({"x": NUMBER, "late": ["x" if value == "yes" else "a" for value in LABEL]})
    assert data.contract.classes == ("a", "x")


@pytest.mark.parametrize(
    ("name", "values", "task"),
    [
        ("late", LABEL, "binary"),
        ("late", drawn(lambda r: r.random() < 0.5), "binary"),
        ("late", drawn(lambda r: r.randrange(2)), "binary"),
        ("late", drawn(lambda r: float(r.randrange(2))), "binary"),
        ("grade", drawn(lambda r: r.randrange(5)), "multiclass"),
        ("visit_count", drawn(lambda r: r.randrange(5)), "regression"),
        ("late", drawn(lambda r: r.randrange(50)), "regression"),
        ("late", NUMBER, "regression"),
    ],
)
def test_the_task_follows_from_the_target(data: Data, name: str, values: list[Any], task: str) -> None:
    data.propose({"x": drawn(number, seed=7), name: values}, name)
    assert data.contract.task == task


@pytest.mark.parametrize(("asked", "task"), [("regression", "regression"), ("classification", "multiclass")])
def test_the_task_that_was_asked_for_is_taken(data: Data, asked: str, task: str) -> None:
    data.propose({"x": NUMBER, "late": drawn(lambda r: r.randrange(15))}, task=asked)
    assert data.contract.task == task


def test_rows_without_a_target_are_counted_before_the_pipeline_refuses_them(data: Data) -> None:
    printed = data.propose({"x": NUMBER, "late": ["", "", "", *LABEL[3:]]})
    assert "3 of 400 rows have none, and the pipeline refuses them" in words(printed)
    assert data.entry("late")["required"] is True


@pytest.mark.parametrize(
    ("columns", "target", "task", "message"),
    [
        ({"x": NUMBER, "Late": LABEL}, "lat", "auto", "no column 'lat', the target: did you mean 'Late'?"),
        ({"x": NUMBER, "late": [1] * ROWS}, "late", "auto", "'late' is the same in every row"),
        ({"x": NUMBER, "late": [""] * ROWS}, "late", "auto", "'late' is empty in all 400 rows"),
        ({"x": NUMBER, "late": [f"r{i}" for i in range(ROWS)]}, "late", "auto", "different in each of its 400 rows"),
        ({"x": NUMBER, "late": [f"r{i // 2}" for i in range(ROWS)]}, "late", "auto", "more than the 100 classes"),
        ({"x": NUMBER[:5], "late": ["a", "b", "c", "a", ""]}, "late", "auto", "3 classes in 4 rows"),
        ({"x": NUMBER, "late": ["rare", *["a", "b"] * 199, "a"]}, "late", "auto", "class 'rare' has one row"),
        ({"x": NUMBER[:1], "late": ["a"]}, "late", "auto", "has one row"),
        ({"x": [], "late": []}, "late", "auto", "has no rows"),
        ({"x": NUMBER, "late": LABEL}, "late", "regression", "'late' is no number"),
        ({"x": NUMBER, "late": NUMBER}, "late", "classification", "use task regression"),
        ({"x": NUMBER, "late": ["2021-01-01", "2021-01-02"] * 200}, "late", "auto", "is a date"),
    ],
)
def test_a_target_that_cannot_be_predicted_is_refused(
    data: Data, columns: Columns, target: str, task: str, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        data.propose(columns, target, task)
    assert "\n" not in str(error.value)
    assert yaml.safe_load(data.path.read_text(encoding="utf-8"))["schema"][0]["properties"][0]["name"] == target


# The file


def test_a_nasty_file_is_described_completely(data: Data) -> None:
    names = ["Größe in cm", "class", 'a "quoted" name', "semi;colon", "on", "it's", "空", "late", "null", "with: colon"]
    columns = {name: drawn(number, seed=seed) for seed, name in enumerate(names)} | {"late": LABEL}
    columns["empty"], columns["mixed"] = [""] * ROWS, [*["7"] * 390, *["x"] * 10]
    data.propose(columns, delimiter=";")
    raw = data.file.read_bytes() + b"\n".join(data.file.read_bytes().splitlines()[1:50]) + b"\n"
    data.file.write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    data.skeleton()
    data.infer()
    assert {column.name for column in data.contract.columns} == set(columns)
    assert {column.name for column in data.contract.features} >= set(names) - {"late"}
    assert "describes the data" in words(data.infer())


def test_a_second_run_finds_nothing_and_does_not_touch_the_file(data: Data) -> None:
    data.with_target({"x": NUMBER, "c": drawn(lambda r: r.choice("abc"))})
    data.path.write_text(
        data.path.read_text(encoding="utf-8").replace("status: draft", "status:   draft"), encoding="utf-8"
    )
    before = data.path.read_bytes(), data.path.stat().st_mtime_ns
    assert "describes the data" in words(data.infer())
    assert (data.path.read_bytes(), data.path.stat().st_mtime_ns) == before


def test_the_same_data_gives_the_same_contract_byte_for_byte(data: Data) -> None:
    columns = {"x": NUMBER, "c": drawn(lambda r: r.choice("abc")), "mail": [f"a{row}@b.org" for row in range(ROWS)]}
    data.with_target(columns)
    first = data.path.read_bytes()
    data.with_target(columns)
    assert data.path.read_bytes() == first


def test_if_missing_leaves_a_described_contract_alone_and_completes_a_skeleton(data: Data) -> None:
    data.write({"x": NUMBER, "late": LABEL})
    data.skeleton()
    assert "x" in data.infer(if_missing=True)
    data.write({"x": NUMBER, "new": NUMBER, "late": LABEL})
    assert data.infer(if_missing=True) == ""


def test_what_a_person_wrote_survives_a_new_column(data: Data) -> None:
    data.with_target({"x": NUMBER, "c": drawn(lambda r: r.choice("abc"))})
    written = (
        data.path.read_text(encoding="utf-8")
        .replace("name: Made", "name: 'Made by hand'  # for people")
        .replace("logicalType: number\n", 'logicalType: number\n        description: "a, b"  # in metres\n')
        .replace("  - name: made", "  # the one table\n  - name: made")
    )
    data.path.write_text(written, encoding="utf-8")
    data.write({"x": NUMBER, "c": drawn(lambda r: r.choice("abc")), "late": LABEL, "new": drawn(number, seed=3)})
    printed = data.infer()
    assert data.path.read_text(encoding="utf-8").startswith(written)
    assert "+      - name: new" in printed
    assert data.tags("new") == {"feature"}


def refreshed(data: Data) -> str:
    """Describe a data set, then break every rule of it."""
    columns: Columns = {
        "gone": NUMBER,
        "typed": [*range(ROWS)],
        "full": NUMBER,
        "some": ["", *NUMBER[1:]],
        "kind": drawn(lambda r: r.choice("abc")),
        "size": NUMBER,
        "ref": [f"r{row}" for row in range(ROWS)],
    }
    data.with_target(columns)
    broken: Columns = {
        "typed": ["x1", *range(1, ROWS)],
        "full": ["", *NUMBER[1:]],
        "some": [*[""] * 200, *NUMBER[200:]],
        "kind": ["new", *drawn(lambda r: r.choice("abc"))[1:]],
        "size": [value * 9 for value in NUMBER],
        "ref": ["r1", *[f"r{row}" for row in range(1, ROWS)]],
    }
    data.write({**broken, "late": LABEL})
    return data.infer()


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        ("gone", "column"),
        ("typed", "logicalType"),
        ("full", "required"),
        ("some", "nullValues"),
        ("kind", "enum"),
        ("size", "maximum"),
        ("size", "mean"),
        ("ref", "unique"),
    ],
)
def test_a_rule_that_the_data_breaks_is_shown_and_only_changed_when_accepted(
    data: Data, column: str, rule: str
) -> None:
    printed = refreshed(data)
    before = data.path.read_text(encoding="utf-8")
    assert re.search(rf"^{column} +{rule} ", printed, re.MULTILINE)
    accepted = data.infer(accept=[column])
    assert data.path.read_text(encoding="utf-8") != before
    assert "--- " in accepted
    assert not re.search(rf"^{column} +", data.infer(), re.MULTILINE)


def test_accepting_everything_makes_the_contract_describe_the_data(data: Data) -> None:
    refreshed(data)
    assert "follows the data now" in words(data.infer(accept_all=True))
    assert "describes the data" in words(data.infer())
    assert [value.get("value") for value in data.entry("kind")["enum"]] == ["a", "b", "c", "new"]
    assert data.entry("typed")["logicalType"] == "string"
    assert data.contract.task == "binary"


def test_accepting_a_column_without_differences_is_refused(data: Data) -> None:
    refreshed(data)
    before = data.path.read_bytes()
    with pytest.raises(InputError, match="did you mean 'typed'"):
        data.infer(accept=["type"])
    assert data.path.read_bytes() == before


def test_a_target_with_nulls_cannot_be_accepted(data: Data) -> None:
    data.with_target({"x": NUMBER})
    data.write({"x": NUMBER, "late": ["", *LABEL[1:]]})
    assert re.search(r"late +required", data.infer())
    with pytest.raises(InputError, match="mend the data"):
        data.infer(accept=["late"])


def test_new_values_of_a_personal_column_are_counted_but_not_shown(data: Data) -> None:
    data.with_target({"x": NUMBER, "who": drawn(lambda r: r.choice(["ann", "bob"]))})
    text = data.path.read_text(encoding="utf-8").replace("tags: [feature, slice]", "classification: restricted")
    data.path.write_text(text, encoding="utf-8")
    data.write({"x": NUMBER, "who": ["zoe", *drawn(lambda r: r.choice(["ann", "bob"]))[1:]], "late": LABEL})
    printed = data.infer()
    assert "who" in printed
    assert "zoe" not in printed


def test_the_table_fits_eighty_columns_and_cuts_no_name(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "a_column_with_a_very_long_name_that_matters_to_people"
    printed = data.with_target({long: NUMBER, "x [bold]": NUMBER})
    assert max(map(len, printed.splitlines()[2:])) <= 80
    assert "\x1b" not in printed
    assert "".join(line[:22].strip() for line in printed.splitlines()).count(long) == 1
    assert "x [bold]" in printed


def test_a_contract_that_would_break_the_standard_is_not_written(data: Data) -> None:
    data.write({"x": NUMBER, "late": LABEL})
    data.skeleton()
    data.path.write_text(data.path.read_text(encoding="utf-8").replace(", format: csv", ""), encoding="utf-8")
    before = data.path.read_bytes()
    with pytest.raises(InputError, match=r"contract.yaml: servers .*'format' is a required property"):
        data.infer()
    assert data.path.read_bytes() == before
    assert {file.name for file in data.path.parent.iterdir()} == {"contract.yaml", "rows.csv"}


def test_windows_line_ends_of_the_contract_survive(data: Data) -> None:
    data.write({"x": NUMBER, "late": LABEL})
    data.skeleton()
    data.path.write_bytes(b"# by hand\r\n" + data.path.read_bytes().replace(b"\n", b"\r\n"))
    data.infer()
    assert data.path.read_bytes().count(b"\r\n") == data.path.read_bytes().count(b"\n")
    assert b"\r\r" not in data.path.read_bytes()


def test_whole_numbers_written_with_a_point_are_classes_only_where_few(data: Data) -> None:
    data.propose({"x": NUMBER, "late": drawn(lambda r: float(r.randrange(60)))})
    assert data.entry("late")["logicalType"] == "number"


def test_a_file_that_is_no_contract_is_refused_in_one_line(data: Data) -> None:
    data.write({"x": NUMBER, "late": LABEL})
    for text, message in (("a: [", "is not YAML"), ("- 1", "no contract"), ("servers: [{}]", "must hold one table")):
        data.path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message) as error:
            data.infer()
        assert "\n" not in str(error.value)
