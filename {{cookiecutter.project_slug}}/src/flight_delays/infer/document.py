"""How is `contract.yaml` kept? Read and written so that what a person wrote stays as it was written."""

import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.emitter import RoundTripEmitter
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.util import load_yaml_guess_indent

from flight_delays.contract import own_server
from flight_delays.errors import InputError
from flight_delays.infer.kinds import Kind
from flight_delays.settings import tier
from flight_delays.source import SQL_TYPES

_WIDTH = 110  # where a list goes on in a new line


class Document:
    """A contract file as a tree that remembers comments, order and quotes.

    Attributes
    ----------
    path
        The file.
    text
        Its content as read.
    properties
        The entries of its table, in order; to be changed in place.
    server
        The one of its servers that the tier reads, as plain data.
    """

    def __init__(self, path: Path) -> None:
        """Read a contract, which may be a skeleton with a target and nothing else.

        Raises
        ------
        InputError
            The file is missing, no YAML, or without a server, a table or a target.
        """
        self.path = path
        self._yaml = YAML()
        self._yaml.Emitter = _Emitter
        self._yaml.preserve_quotes = True
        self._yaml.brace_single_entry_mapping_in_flow_sequence = True
        self._yaml.width = sys.maxsize
        try:
            self.text = path.read_bytes().decode("utf-8-sig")
            offset = load_yaml_guess_indent(self.text)[2] or 0
            self._tree = self._yaml.load(self.text.replace("\r\n", "\n"))
        except FileNotFoundError:
            raise InputError(f"{path} is missing: take it back from git") from None
        except (YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
        self._yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
        self._yaml.explicit_start = self.text.startswith("---")
        self.properties, self.server = self._parts()

    def follow_standard(self) -> None:
        """Name the version of the standard whose words the proposal uses: `enum` came with 3.2."""
        self._tree["apiVersion"] = "v3.2.0"

    @property
    def described(self) -> bool:
        """Whether it says already what the model may see."""
        return any("feature" in (entry.get("tags") or ()) for entry in self.properties)

    @property
    def entries(self) -> dict[str, Any]:
        """The columns' entries by name."""
        return {str(entry.get("name")): entry for entry in self.properties}

    @property
    def target(self) -> Any:
        """The entry of the column to predict."""
        targets = [entry for entry in self.properties if "target" in (entry.get("tags") or ())]
        if len(targets) != 1:
            names = [entry.get("name") for entry in targets]
            raise InputError(f"{self.path}: exactly one column must be tagged `target`, here {names}")
        return targets[0]

    def roles(self) -> dict[str, set[str]]:
        """Say which columns have which tag."""
        found: dict[str, set[str]] = {}
        for entry in self.properties:
            for tag in entry.get("tags") or ():
                found.setdefault(tag, set()).add(entry["name"])
        return found

    def add(self, entry: dict[str, Any], remark: str = "") -> None:
        """Append a column, with a remark behind its name."""
        self.properties.append(_compact(entry))
        if remark:
            name = self.properties[-1]["name"]
            end = self.properties[0].lc.col + len(f"name: {name}") + 2 * isinstance(name, DoubleQuotedScalarString)
            self.properties[-1].yaml_add_eol_comment(" ".join(remark.split()), "name", column=end + 2)

    def complete(self, entry: Any, proposed: dict[str, Any]) -> None:
        """Add to an entry what it does not say yet."""
        entry.fa.set_block_style()
        compact = _compact(proposed)
        known = list(compact)
        for key in known:
            if key not in entry:
                before = [position for position, other in enumerate(entry) if other in known[: known.index(key)]]
                entry.insert(before[-1] + 1 if before else 0, key, compact[key])

    def write(self, check: Callable[[Path], object]) -> str:
        """Write the tree in one step and give the text; a file that says the same, or fails a check, is not touched."""
        text = self.render()
        if text == self.text:
            return text
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            check(Path(name))
            shutil.copymode(self.path, name)
            Path(name).replace(self.path)
        except InputError as error:
            raise InputError(str(error).replace(name, str(self.path))) from None
        finally:
            Path(name).unlink(missing_ok=True)
        return text

    def render(self) -> str:
        """Give the tree as text."""
        stream = io.StringIO()
        self._yaml.dump(self._tree, stream)
        text = re.sub(r"[ \t]+$", "", stream.getvalue(), flags=re.MULTILINE)
        return text.replace("\n", "\r\n") if "\r\n" in self.text else text

    def _parts(self) -> tuple[Any, dict[str, Any]]:
        tree = self._tree
        if not isinstance(tree, dict):
            raise InputError(f"{self.path} is no contract: it must be a mapping with `servers` and `schema`")
        if not tree.get("servers"):
            raise InputError(f"{self.path}: `servers` is empty: say where the data comes from")
        tables = tree.get("schema") or []
        if len(tables) != 1 or not tables[0].get("properties"):
            raise InputError(f"{self.path}: `schema` must hold one table, and its `properties` at least the target")
        properties = tables[0]["properties"]
        names = [entry.get("name") for entry in properties]
        if None in names:
            raise InputError(f"{self.path}: entry {names.index(None) + 1} of `properties` has no name")
        return properties, dict(tree["servers"][own_server(tree, tier(), self.path)])


def kind_of(entry: Any, path: Path) -> Kind:
    """Read from a contract's entry how its column is to be read.

    Parameters
    ----------
    entry
        The column's entry.
    path
        The contract, for messages.
    """
    name, custom = entry.get("logicalType"), entry.get("customProperties") or []
    if name not in SQL_TYPES:
        raise InputError(f"{path}: column {entry['name']!r}: logicalType {name!r} is not one of {', '.join(SQL_TYPES)}")
    decimal = next((item["value"] for item in custom if item.get("property") == "decimal"), ".")
    return Kind(name, (entry.get("logicalTypeOptions") or {}).get("format"), str(decimal))


def compact(value: Any) -> Any:
    """Turn plain data into YAML on one line, quoted where another reader could take it for something else.

    Parameters
    ----------
    value
        Maps, lists, text, numbers and truth values.
    """
    if isinstance(value, dict):
        mapping = CommentedMap((compact(key), compact(item)) for key, item in value.items())
        mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        sequence = CommentedSeq(compact(item) for item in value)
        sequence.fa.set_flow_style()
        return sequence
    if isinstance(value, str) and not _plain(value):
        return DoubleQuotedScalarString(value)
    return value


def _compact(entry: dict[str, Any]) -> CommentedMap:
    """Give a column a line for each of its few words, and each of its quality rules a line of its own."""
    mapping = CommentedMap((key, compact(value)) for key, value in entry.items())
    if "quality" in mapping:
        mapping["quality"].fa.set_block_style()
    return mapping


def _plain(text: str) -> bool:
    """Whether every YAML reader takes a text for itself: `NO` is false to some, 2013-01-01 a date."""
    if not text.isprintable():
        return False
    try:
        return bool(yaml.safe_load(f"[{text}]") == [text])
    except yaml.YAMLError:
        return False


class _Emitter(RoundTripEmitter):
    """Breaks long lists over lines, between their items."""

    def expect_flow_mapping(self, single: Any = False, force_flow_indent: Any = False) -> None:
        if self.flow_context and self.flow_context[-1] == "[" and self.column > _WIDTH:
            self.write_indent()
        super().expect_flow_mapping(single, force_flow_indent)
