"""How does a person see what was decided? Tables that fit 80 columns, with or without a terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flight_delays.infer.differences import Difference
from flight_delays.infer.entry import Proposal

_NAME_WIDTH = 22
_WIDEST = 120
_ORDER = ("target", "time", "key", "feature")


def show_proposals(console: Console, proposals: list[Proposal]) -> None:
    """Print a line for each column: target, time and key first, then features, then what is merely kept.

    Parameters
    ----------
    console
        Where to print.
    proposals
        The columns.
    """
    table = _table(console, [proposal.facts.name for proposal in proposals], column=0, type=9, role=10, rules=17, why=0)
    ranked = sorted(proposals, key=_rank)
    for place, proposal in enumerate(ranked):
        table.add_row(
            *map(
                Text,
                (proposal.facts.name, _type(proposal), _role(proposal), rules(proposal.entry), proposal.why),
            ),
            end_section=place + 1 < len(ranked) and _section(proposal) != _section(ranked[place + 1]),
        )
    console.print(table)


def show_differences(console: Console, found: list[Difference]) -> None:
    """Print a line for each rule that the data breaks.

    Parameters
    ----------
    console
        Where to print.
    found
        The differences.
    """
    table = _table(
        console, [difference.column for difference in found], column=0, rule=12, contract_says=18, data_says=0
    )
    for difference in found:
        table.add_row(*map(Text, (difference.column, difference.rule, difference.contract, difference.data)))
    console.print(table)


def rules(entry: dict[str, Any]) -> str:
    """Sum up an entry's rules in a few words.

    Parameters
    ----------
    entry
        A column's entry of the contract.
    """
    words = [word for word in ("required", "unique") if entry.get(word)]
    options = entry.get("logicalTypeOptions") or {}
    low, high = options.get("minimum"), options.get("maximum")
    if low is not None and high is not None:
        words.append(f"{_short(low)} to {_short(high)}")
    elif low is not None:
        words.append(f"from {_short(low)}")
    if values := [item["value"] for item in entry.get("enum") or ()]:
        words.append(", ".join(map(str, values)) if len(values) <= 3 else f"{len(values)} values")
    for rule in entry.get("quality") or ():
        if rule.get("metric") == "nullValues":
            words.append(f"< {rule['mustBeLessThan']} % null")
        elif "implementation" in rule:
            limits = rule["implementation"]["kwargs"]
            words.append(f"mean {limits['min_value']} to {limits['max_value']}")
    return "; ".join(words)


def _table(console: Console, names: list[str], **columns: int) -> Table:
    """Lay out columns of given widths; names get what they need up to a limit, and the last column what is left."""
    *_, last = columns
    columns["column"] = max(6, min(_NAME_WIDTH, max(map(len, names))))
    columns[last] = max(12, min(console.width, _WIDEST) - sum(columns.values()) - 2 * (len(columns) - 1))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, width in columns.items():
        table.add_column(title.replace("_", " "), overflow="fold", width=width, vertical="top")
    return table


def _rank(proposal: Proposal) -> tuple[int, bool]:
    return _section(proposal), proposal.personal


def _section(proposal: Proposal) -> int:
    return next((place for place, role in enumerate(_ORDER) if role in proposal.roles), len(_ORDER))


def _type(proposal: Proposal) -> str:
    return proposal.facts.kind.name


def _role(proposal: Proposal) -> str:
    return ", ".join(proposal.roles) or ("kept, restricted" if proposal.personal else "kept")


def _short(value: Any) -> str:
    return value[:10] if isinstance(value, str) else f"{value:,}"
