"""Is every source read as the contract says, and refused with its place where it is not so?"""

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flight_delays.contract import Contract
from flight_delays.errors import InputError
from flight_delays.pipeline.ingest import ingest

COLUMNS = [
    {"name": "when", "logicalType": "timestamp", "required": True, "tags": ["time"]},
    {"name": "amount", "logicalType": "integer", "tags": ["feature"]},
    {"name": "price", "logicalType": "number", "tags": ["feature"]},
    {"name": "town", "logicalType": "string", "tags": ["feature"]},
    {"name": "late", "logicalType": "boolean", "required": True, "tags": ["target"]},
]
HEADER = "when,amount,price,town,late"
ROWS = ["2024-01-01 10:00:00,3,1.5,Zürich,true", "2024-01-01T11:00:00Z,,NA,,False", '2024-01-02,-2,1e3,"a,""b""",TRUE']
EXPECTED = [
    (dt.datetime(2024, 1, 1, 10), 3, 1.5, "Zürich", True),  # noqa: DTZ001
    (dt.datetime(2024, 1, 1, 11), None, None, None, False),  # noqa: DTZ001
    (dt.datetime(2024, 1, 2), -2, 1000.0, 'a,"b"', True),  # noqa: DTZ001
]
Ingest = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """Write a source file, ingest it under a contract, and give its rows."""
    monkeypatch.chdir(tmp_path)

    def write_and_ingest(content: bytes | str, name: str = "rows.csv", columns: Any = COLUMNS) -> list[tuple[Any, ...]]:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        server = {"server": "development", "type": "custom" if name.endswith(".py") else "local", "path": name}
        document = {
            "apiVersion": "v3.2.0", "kind": "DataContract", "id": "x", "version": "1.0.0", "status": "active",
            "servers": [server if server["type"] == "custom" else server | {"format": "csv"}],
            "schema": [{"name": "rows", "properties": columns}],
        }  # fmt: skip
        Path("contract.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        count = ingest(Contract.read(), Path("data/rows.parquet"))
        table = pq.read_table("data/rows.parquet")
        assert table.num_rows == count
        return [tuple(row.values()) for row in table.to_pylist()]

    return write_and_ingest


def csv(*rows: str, end: str = "\n") -> str:
    return end.join([HEADER, *rows]) + end


def test_text_becomes_the_contracts_types(read: Ingest) -> None:
    assert read(csv(*ROWS)) == EXPECTED


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("\ufeff" + csv(*ROWS, end="\r\n"), "rows.csv"),
        (csv(*ROWS).replace(",", "\t").replace('"a\t""b"""', '"a,""b"""'), "rows.tsv"),
        (csv(*ROWS).replace(",", ";").replace('"a;""b"""', '"a,""b"""'), "rows.csv"),
        (gzip.compress(csv(*ROWS).encode()), "rows.csv.gz"),
    ],
)
def test_other_forms_of_the_same_text_give_the_same_rows(read: Ingest, content: bytes | str, name: str) -> None:
    assert read(content, name) == EXPECTED


def test_json_lines_and_parquet_give_the_same_rows(read: Ingest, tmp_path: Path) -> None:
    names = HEADER.split(",")
    lines = [json.dumps(dict(zip(names, (str(row[0]), *row[1:]), strict=True))) for row in EXPECTED]
    assert read("\n".join(lines), "rows.jsonl") == EXPECTED
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in EXPECTED]), tmp_path / "x")
    assert read((tmp_path / "x").read_bytes(), "rows.parquet") == EXPECTED


def test_a_python_file_can_be_the_source(read: Ingest) -> None:
    query = "SELECT now()::TIMESTAMP AS when, 1 AS amount, 2.5 AS price, 'A' AS town, true AS late"
    assert read(f'def load(connection):\n    return connection.sql("{query}")\n', "source.py")[0][1:] == (
        1,
        2.5,
        "A",
        True,
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (csv(*ROWS, "2024-01-03,2.5,1,A,true"), r"column 'amount', row 4: '2.5' is no integer"),
        (csv(*ROWS, "2024-01-03,2,1,A,maybe"), r"column 'late', row 4: 'maybe' is no boolean"),
        (csv("soon,2,cheap,A,true"), r"'when', row 1: 'soon' is no timestamp; column 'price', row 1: 'cheap'"),
        (csv(*ROWS).replace("amount", "count"), r"column 'amount' is missing; column 'count' is not in contract.yaml"),
        (csv(*ROWS).replace("amount", "price"), r"columns \['price', 'price'\] have the same name"),
        (csv(*ROWS).replace("amount", "PRICE"), r"columns \['PRICE', 'price'\] have the same name"),
        (csv(*ROWS, "2024-01-03,1"), "row|line|column"),
        (HEADER + "\n", "has no rows"),
        ("", "is empty"),
        (csv(*ROWS).encode("utf-16"), "UTF-8|missing|read"),
        (csv(*ROWS).encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_source_at_fault_is_refused_with_its_place_and_leaves_nothing(
    read: Ingest, tmp_path: Path, fault: str | bytes, words: str
) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        read(fault)
    assert "rows.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path).glob("data/*"))


def test_a_personal_value_is_not_shown(read: Ingest) -> None:
    personal = [{"name": "phone", "logicalType": "integer", "classification": "restricted"}, *COLUMNS]
    with pytest.raises(InputError, match=r"column 'phone', row 1: the value is no integer"):
        read(f"phone,{HEADER}\n+41 79 1234,{ROWS[0]}\n", columns=personal)


@pytest.mark.parametrize(("name", "words"), [("rows.xlsx", "unknown kind of file"), ("source.py", "no function `load")])
def test_a_source_of_another_kind_is_refused(read: Ingest, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read("x = 1\n", name)
