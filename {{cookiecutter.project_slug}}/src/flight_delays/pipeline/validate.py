"""Stage 2: check the rows against the contract with Great Expectations, and build its Data Docs.

The one module that imports Great Expectations. The rows stay in their file: DuckDB answers each expectation.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Any

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError, report_errors
from flight_delays.pipeline.ingest import ROWS
from flight_delays.source import connect, quote, text

REPORT = Path("reports/validation.json")
DATA_DOCS = Path("reports/data_docs")

os.environ["GX_ANALYTICS_ENABLED"] = "false"


class _Dialect(StrEnum):
    """What Great Expectations' list of dialects with a kept connection lacks."""

    DUCKDB = "duckdb"


def expectations(contract: Contract, personal: bool) -> list[Any]:
    """Derive the expectations of a contract's columns, and the table's with those that are not personal.

    Parameters
    ----------
    contract
        The contract.
    personal
        Whether to take the personal columns, or the others.

    Raises
    ------
    InputError
        A quality rule is of a kind that cannot be executed.
    """
    import great_expectations.expectations as gxe

    found: list[Any] = []
    for column in contract.columns:
        if column.personal == personal:
            found += _column_expectations(column)
    keys = contract.keys
    if len(keys) > 1 and any(key.personal for key in keys) == personal:
        found.append(gxe.ExpectCompoundColumnsToBeUnique(column_list=[key.name for key in keys]))
    if len(keys) == 1 and keys[0].personal == personal and not keys[0].unique:
        found.append(gxe.ExpectColumnValuesToBeUnique(column=keys[0].name))
    if not personal:
        names = [column.name for column in contract.columns]
        found.append(gxe.ExpectTableColumnsToMatchSet(column_set=names, exact_match=True))
        found += [_rule(rule, None) for rule in contract.quality]
    return found


def _column_expectations(column: Column) -> list[Any]:
    import great_expectations.expectations as gxe

    name = column.name
    found: list[Any] = []
    if column.required:
        found.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
    elif column.max_null_share < 1:
        found.append(gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=round(1 - column.max_null_share, 9)))
    if column.unique:
        found.append(gxe.ExpectColumnValuesToBeUnique(column=name))
    if column.values:
        found.append(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.values)))
    bounds = {
        "minimum": "min_value",
        "maximum": "max_value",
        "exclusiveMinimum": "min_value",
        "exclusiveMaximum": "max_value",
    }
    limits = {bounds[rule]: value for rule, value in column.options.items() if rule in bounds}
    strict = {f"strict_{bounds[rule][:3]}": True for rule in column.options if rule.startswith("exclusive")}
    if limits:
        found.append(gxe.ExpectColumnValuesToBeBetween(column=name, **limits, **strict))
    lengths = {"minLength": "min_value", "maxLength": "max_value"}
    limits = {lengths[rule]: value for rule, value in column.options.items() if rule in lengths}
    if limits:
        found.append(gxe.ExpectColumnValueLengthsToBeBetween(column=name, **limits))
    if pattern := column.options.get("pattern"):
        matches = f"regexp_full_match({quote(name)}, {text(pattern)})".replace("{", "{{").replace("}", "}}")
        query = f"SELECT * FROM {{batch}} WHERE NOT {matches}"
        found.append(
            gxe.UnexpectedRowsExpectation(unexpected_rows_query=query, description=f"column {name!r} matches {pattern}")
        )
    found += [_rule(rule, column) for rule in column.quality if rule.metric != "nullValues"]
    return found


def _rule(rule: Any, column: Column | None) -> Any:
    """Turn one quality rule of the contract into an expectation."""
    import great_expectations.expectations as gxe

    where = f"contract.yaml: column {column.name!r}" if column else "contract.yaml: the table"
    if rule.engine == "greatExpectations" and isinstance(rule.implementation, dict):
        name = rule.implementation.get("type", "")
        kind = getattr(gxe, "".join(word.capitalize() for word in name.split("_")), None)
        if kind is None:
            raise InputError(f"{where}: Great Expectations has no {name!r}")
        try:
            return kind(**({"column": column.name} if column else {}), **rule.implementation.get("kwargs", {}))
        except ValueError as error:
            raise InputError(f"{where}: {name}: {' '.join(str(error).split())[:200]}") from None
    if rule.metric == "duplicateValues" and rule.mustBe == 0 and column:
        return gxe.ExpectColumnValuesToBeUnique(column=column.name)
    if rule.metric == "rowCount":
        low = rule.mustBeGreaterOrEqualTo if rule.mustBeGreaterThan is None else rule.mustBeGreaterThan + 1
        high = rule.mustBeLessOrEqualTo if rule.mustBeLessThan is None else rule.mustBeLessThan - 1
        return gxe.ExpectTableRowCountToBeBetween(min_value=low, max_value=high)
    raise InputError(
        f"{where}: quality rule {rule.metric or rule.type!r} cannot be run: write it for `engine: greatExpectations`"
    )


def validate(contract: Contract, rows: Path = ROWS, docs: Path | None = DATA_DOCS) -> list[dict[str, Any]]:
    """Run the contract's expectations on a file and build the Data Docs.

    Parameters
    ----------
    contract
        The contract.
    rows
        The Parquet file that ingest wrote.
    docs
        The folder of the Data Docs, made anew; `None` to make none.

    Returns
    -------
    list of dict
        One entry an expectation, with `column`, `rule`, `expected`, `success`, `broken` (rows) and `seen`. Of
        personal columns, no value is seen here nor in the Data Docs.
    """
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "rows.duckdb"
        view = f"CREATE VIEW rows AS SELECT * FROM '{rows.resolve()}'"
        with connect() as connection:
            connection.execute(f"ATTACH '{database}' AS file; USE file; {view}; USE memory; DETACH file")
        if docs:
            shutil.rmtree(docs, ignore_errors=True)
        context, batch = _open(database, docs)
        suites = {"contract": (False, "SUMMARY"), "contract, personal columns": (True, "BOOLEAN_ONLY")}
        found = []
        for name, (personal, detail) in suites.items():
            if wanted := expectations(contract, personal):
                found += _run(context, batch, name, wanted, detail, ["local"] if docs else [])
        return found


def _open(database: Path, docs: Path | None) -> tuple[Any, Any]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    # Great Expectations gives DuckDB's connection back before it has read the rows, unless the dialect is listed here.
    if _Dialect.DUCKDB not in engine._PERSISTED_CONNECTION_DIALECTS:
        engine._PERSISTED_CONNECTION_DIALECTS += (_Dialect.DUCKDB,)
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=sys.stderr.isatty())
    if docs:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
        context.add_data_docs_site(
            "local",
            {
                "class_name": "SiteBuilder",
                "show_cta_footer": False,
                "store_backend": store,
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
    source = context.data_sources.add_sql("contract", connection_string=f"duckdb:///{database}")
    return context, source.add_table_asset("rows", table_name="rows").add_batch_definition_whole_table("all rows")


def _run(context: Any, batch: Any, name: str, wanted: list[Any], detail: str, sites: list[str]) -> list[dict[str, Any]]:
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=wanted))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="Data Docs", site_names=sites)] if sites else [],
            result_format={"result_format": detail},
        )
    )
    (outcome,) = checkpoint.run(run_id=gx.RunIdentifier(run_name="validate")).run_results.values()
    return [_entry(result) for result in outcome.results]


def _entry(result: Any) -> dict[str, Any]:
    config, found = result.expectation_config, result.result
    given = {key: value for key, value in config.kwargs.items() if key not in {"batch_id", "column"}}
    entry = {
        "column": config.kwargs.get("column"),
        "rule": config.type.removeprefix("expect_"),
        "expected": config.description or given,
        "success": bool(result.success),
    }
    if failure := next(iter(_exceptions(result.exception_info)), None):
        raise InputError(f"{entry['rule']} on column {entry['column']!r} could not be run: {failure}")
    broken = found.get("unexpected_count")
    seen = found.get("observed_value")
    if not entry["success"] and broken is not None:
        seen = found["partial_unexpected_list"][:3]
    return entry | {"broken": broken, "seen": _plain(seen)}


def _exceptions(info: dict[str, Any]) -> list[str]:
    entries = info.values() if all(isinstance(value, dict) for value in info.values()) else [info]
    return [str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")]


def _plain(value: Any) -> Any:
    """Values of the database's own types, such as decimals and dates, as JSON has them."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.9g}")  # the last digits of a mean depend on which thread was first
    return value if isinstance(value, str | int | None) else str(value)


def message(entry: dict[str, Any], rows: Path = ROWS) -> str:
    """Say in one line which rule a file breaks, where and how.

    Parameters
    ----------
    entry
        Of `validate`.
    rows
        The file that was checked, to find the first row that breaks the rule.
    """
    where = f"column {entry['column']!r}" if entry["column"] else "the table"
    words = [f"{where}: {entry['rule'].replace('_', ' ')} {entry['expected']}"]
    if entry["rule"] == "unexpected_rows_expectation":
        words = [str(entry["expected"])]
    if entry["broken"] is not None:
        words.append(f"{entry['broken']:,} rows" + _first_place(entry, rows))
    if entry["seen"] not in (None, []):
        words.append(f"found {entry['seen']}")
    return ", ".join(words)


def _first_place(entry: dict[str, Any], rows: Path) -> str:
    if not entry["column"] or not entry["seen"]:
        return ""
    query = f"""SELECT min(file_row_number) + 1 FROM read_parquet({text(rows)}, file_row_number = true)
                WHERE CAST({quote(entry["column"])} AS VARCHAR) IS NOT DISTINCT FROM CAST(? AS VARCHAR)"""
    (first,) = connect().execute(query, [entry["seen"][0]]).fetchone() or (None,)
    return f", the first is row {first:,}" if first else ""


@report_errors
def main() -> None:
    """Run the stage."""
    contract = Contract.read()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    found = validate(contract)
    broken = [entry for entry in found if not entry["success"]]
    if broken:
        lines = "\n".join(f"  {message(entry)}" for entry in broken)
        raise InputError(
            f"{ROWS}: {len(broken)} of {len(found)} expectations of contract.yaml are broken, "
            f"as {DATA_DOCS}/index.html shows:\n"
            f"{lines}\nmend the data; or, if the data is right, run `make contract` to see and take over the difference"
        )
    REPORT.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"validate: {len(found)} expectations hold → {DATA_DOCS}/index.html")


if __name__ == "__main__":
    main()
