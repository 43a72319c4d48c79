"""What must the data be? Reads `contract.yaml` and says what each column is for.

The file is an Open Data Contract Standard v3 document (https://bitol-io.github.io/open-data-contract-standard).
The standard's own words describe types and rules; what a column is for in learning stands in its `tags`:
`feature`, `target`, `key`, `time`, `slice` and `group`.
"""

import difflib
import functools
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from flight_delays.errors import InputError
from flight_delays.requirements import PERSONAL, refusals
from flight_delays.settings import DEVELOPMENT, LOADER, tier

if TYPE_CHECKING:  # a service that reads the contract of a sound model can do without them
    from jsonschema import Draft201909Validator
    from open_data_contract_standard.model import DataQuality, Server

PATH = Path("contract.yaml")
ROLES = ("feature", "target", "key", "time", "slice", "group")
ARROW_TYPES = {
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
}


@dataclass(frozen=True)
class Column:
    """One column of the data, as the contract describes it.

    Attributes
    ----------
    name
        The column's name in the data.
    type
        The standard's logical type: a key of `ARROW_TYPES`.
    roles
        What it is for in learning, of `ROLES`.
    required, unique
        Whether null, or a value seen before, is a violation.
    values
        The allowed values, in the contract's order; empty where anything goes.
    minimum, maximum
        Inclusive bounds, in the column's own type; `None` where there is none.
    max_null_share
        The share of nulls, 0 to 1, above which the contract is broken.
    personal
        Whether its classification keeps it out of features, logs and artifacts.
    description
        What it means, in words.
    options
        The standard's `logicalTypeOptions`, as written.
    custom
        The standard's `customProperties`, as a dictionary.
    rules
        The column's quality rules, as written.
    """

    name: str
    type: str
    roles: frozenset[str]
    required: bool
    unique: bool
    values: tuple[Any, ...]
    minimum: Any
    maximum: Any
    max_null_share: float
    personal: bool
    description: str
    options: dict[str, Any]
    custom: dict[str, Any]
    rules: tuple[dict[str, Any], ...]

    @property
    def quality(self) -> "tuple[DataQuality, ...]":
        """The column's quality rules."""
        return _quality(self.rules)

    @property
    def arrow_type(self) -> pa.DataType:
        """The type in which the pipeline stores and the service receives it."""
        return ARROW_TYPES[self.type]


@dataclass(frozen=True)
class Contract:
    """The contract of one table: its columns, its source, what is predicted and how.

    Attributes
    ----------
    id
        The contract's own identifier, which also names the experiment and the registered model.
    name
        What the data is called, for people.
    columns
        All columns, in the contract's order.
    source
        Where the data comes from: the tier's own of the contract's `servers`, else the first; as written.
    rules
        The table's quality rules, as written.
    task
        `binary`, `multiclass` or `regression`.
    digest
        SHA-256 over the content (not over comments or layout), as hex digits.
    limitations
        What the data is not good for, in words.
    status
        Of the document: `draft` until somebody has read what was proposed, then `active`.
    """

    id: str
    name: str
    columns: tuple[Column, ...]
    source: dict[str, Any]
    rules: tuple[dict[str, Any], ...]
    task: str
    digest: str
    limitations: str = ""
    status: str = "draft"

    @classmethod
    def read(cls, path: Path = PATH, sound: str = "") -> "Contract":
        """Read and check a contract.

        Parameters
        ----------
        path
            The YAML file.
        sound
            The digest of a contract that was checked before, as a model's was when it was made: if it is this one, it
            is not checked again.

        Raises
        ------
        InputError
            The file is missing, no YAML, not valid against the standard's JSON schema, contradicts itself, or has a
            feature that must not be one; the message names the file, the column and the rule.
        """
        document = _parse(path)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()
        if digest != sound:
            _refuse_invalid(document, path)
        if len(document.get("schema", ())) != 1 or not document["schema"][0].get("properties"):
            raise InputError(f"{path}: `schema` must hold one table with its `properties`: run `make contract`")
        if not document.get("servers"):
            raise InputError(f"{path}: `servers` is empty: say where the data comes from")
        (table,) = document["schema"]
        columns = tuple(_column(entry, path) for entry in table["properties"])
        contract = cls(
            id=document["id"],
            name=document.get("name") or table["name"],
            columns=columns,
            source=document["servers"][own_server(document, tier(), path)],
            rules=tuple(table.get("quality") or ()),
            task=_task([column for column in columns if "target" in column.roles], path),
            digest=digest,
            limitations=document.get("description", {}).get("limitations", ""),
            status=document.get("status", "draft"),
        )
        if digest != sound:
            contract._refuse_contradictions(path)
            for words in refusals(document):
                raise InputError(f"{path}: {words}")
        return contract

    def _refuse_contradictions(self, path: Path) -> None:
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{path}: column {twice[0]!r} stands twice in `properties`")
        if len(self._with("time")) > 1:
            raise InputError(f"{path}: only one column can be tagged `time`, here {self._with('time')}")
        if not self.features:
            raise InputError(f"{path}: no column is tagged `feature`: run `make contract`, or tag some")
        for column in self.columns:
            where = f"{path}: column {column.name!r}"
            if "feature" in column.roles and "target" in column.roles:
                raise InputError(f"{where} is tagged both `feature` and `target`: the model would see the answer")
            if column.personal and (shown := sorted(column.roles & {"feature", "target", "slice", "time"})):
                raise InputError(
                    f"{where} is personal (`classification`), so it cannot be tagged `{shown[0]}`: drop one of the two"
                )
            if "time" in column.roles and column.type not in {"timestamp", "date"}:
                raise InputError(f"{where} is tagged `time`, so its logicalType must be timestamp or date")
            if {"time", "target", "key"} & column.roles and not column.required:
                raise InputError(f"{where} is a time, target or key, so it must be `required: true`")

    @property
    def server(self) -> "Server":
        """Where the data comes from."""
        from open_data_contract_standard.model import Server

        return Server.model_validate(self.source)

    @property
    def quality(self) -> "tuple[DataQuality, ...]":
        """The table's quality rules."""
        return _quality(self.rules)

    def _with(self, role: str) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if role in column.roles)

    @functools.cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns that the model sees, in order."""
        return self._with("feature")

    @functools.cached_property
    def target(self) -> Column:
        """The column that is predicted."""
        return self._with("target")[0]

    @property
    def time(self) -> Column | None:
        """The time at which a row happened, where there is one."""
        return next(iter(self._with("time")), None)

    @property
    def keys(self) -> tuple[Column, ...]:
        """The columns that together name a row."""
        return self._with("key")

    @property
    def slices(self) -> tuple[Column, ...]:
        """The columns by whose values quality is reported."""
        return self._with("slice")

    @functools.cached_property
    def classes(self) -> tuple[Any, ...]:
        """The target's values in the order of the outputs, the positive one last; empty in regression."""
        if self.task == "regression":
            return ()
        return (False, True) if self.target.type == "boolean" else self.target.values

    def schema(self, columns: tuple[Column, ...] | None = None) -> pa.Schema:
        """Give the Arrow schema of some columns, or of all of them.

        Parameters
        ----------
        columns
            The columns, in the order wanted.
        """
        return pa.schema([(column.name, column.arrow_type) for column in columns or self.columns])


def read_document(path: Path = PATH) -> dict[str, Any]:
    """Read a contract as plain data, valid against the standard's JSON schema.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    InputError
        The file is missing, no YAML, or not valid; the message names the column and the rule.
    """
    document = _parse(path)
    _refuse_invalid(document, path)
    return document


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), LOADER)  # noqa: S506 (it is a safe one)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: take it back from git, or run `make contract`") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return _dates_as_text(document)


def _refuse_invalid(document: Any, path: Path) -> None:
    from jsonschema.exceptions import best_match

    fault = best_match(_standard().iter_errors(document))
    if fault is not None:
        raise InputError(f"{path}: {_place(document, list(fault.absolute_path))}: {fault.message[:300]}")


def _quality(rules: tuple[dict[str, Any], ...]) -> "tuple[DataQuality, ...]":
    from open_data_contract_standard.model import DataQuality

    return tuple(DataQuality.model_validate(rule) for rule in rules)


def own_server(document: dict[str, Any], tier: str, path: Path = PATH) -> int:
    """Say which of a contract's servers a tier reads: the one that bears its name, or names it as `environment`.

    Parameters
    ----------
    document
        With at least one of `servers`.
    tier
        `development`, `integration` or `production`.
    path
        Of the document, for the message.

    Returns
    -------
    int
        Its place; the first where the tier has none of its own.

    Raises
    ------
    InputError
        The one for development is not the first, which is the one that `dvc.yaml` watches.
    """
    found = {
        word: n for n, one in enumerate(document["servers"]) for word in (one.get("environment"), one.get("server"))
    }
    if found.get(DEVELOPMENT):
        raise InputError(f"{path}: `servers` must begin with the one for development, whose changes `dvc repro` sees")
    return found.get(tier, 0)


@functools.cache
def _standard() -> "Draft201909Validator":
    from jsonschema import Draft201909Validator

    schema = files("open_data_contract_standard").joinpath("schema.json").read_text(encoding="utf-8")
    return Draft201909Validator(json.loads(schema))


def _dates_as_text(value: Any) -> Any:
    """YAML reads an unquoted 2013-01-01 as a date, where the standard wants text."""
    if isinstance(value, dict):
        return {key: _dates_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _place(document: Any, path: list[Any]) -> str:
    """Name the column in place of its number: `schema › flights › carrier › required`."""
    words = []
    for step in path:
        document = document[step]
        if isinstance(step, str):
            words.append(step if step != "properties" else "")
        else:
            words.append(repr(document.get("name", step)) if isinstance(document, dict) else str(step))
    return " › ".join(word for word in words if word) or "the document"


def _column(entry: dict[str, Any], path: Path) -> Column:
    where = f"{path}: column {entry['name']!r}"
    kind = entry.get("logicalType") or "string"
    if kind not in ARROW_TYPES:
        raise InputError(f"{where}: logicalType {kind!r} is not one that a model can take: {', '.join(ARROW_TYPES)}")
    tags = frozenset(entry.get("tags") or ())
    for tag in tags.difference(ROLES):
        if meant := difflib.get_close_matches(tag, ROLES, n=1, cutoff=0.75):
            raise InputError(f"{where}: unknown tag {tag!r}: did you mean {meant[0]!r}?")
    options = dict(entry.get("logicalTypeOptions") or {})
    return Column(
        name=entry["name"],
        type=kind,
        roles=tags.intersection(ROLES),
        required=bool(entry.get("required")),
        unique=bool(entry.get("unique")),
        values=tuple(item["value"] for item in entry.get("enum") or ()),
        minimum=options.get("minimum"),
        maximum=options.get("maximum"),
        max_null_share=_max_null_share(entry, where),
        personal=entry.get("classification") in PERSONAL,
        description=entry.get("description") or "",
        options=options,
        custom={item["property"]: item["value"] for item in entry.get("customProperties") or ()},
        rules=tuple(entry.get("quality") or ()),
    )


def _max_null_share(entry: dict[str, Any], where: str) -> float:
    """Read the share of nulls that a column may have from its `required` and `nullValues` rules."""
    if entry.get("required"):
        return 0.0
    for rule in entry.get("quality") or ():
        if rule.get("metric") == "nullValues":
            limit = rule.get("mustBeLessThan", rule.get("mustBeLessOrEqualTo"))
            if limit is None or rule.get("unit", "percent") != "percent":
                raise InputError(f"{where}: nullValues needs `mustBeLessThan: N` and `unit: percent`")
            return float(limit) / 100
    return 1.0


def _task(targets: list[Column], path: Path) -> str:
    if len(targets) != 1:
        raise InputError(f"{path}: exactly one column must be tagged `target`, here {[c.name for c in targets]}")
    target = targets[0]
    task = target.custom.get("task", "auto")
    where = f"{path}: target {target.name!r}"
    if task == "regression" or (task == "auto" and target.type in {"integer", "number"} and not target.values):
        if target.type not in {"integer", "number"}:
            raise InputError(f"{where}: regression needs an integer or a number, this is a {target.type}")
        return "regression"
    classes = 2 if target.type == "boolean" else len(target.values)
    if classes < 2:
        raise InputError(f"{where}: classification needs its classes as `enum`, two at least: run `make contract`")
    return "binary" if classes == 2 else "multiclass"
