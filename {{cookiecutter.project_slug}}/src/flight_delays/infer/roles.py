"""What is each column for? Target, time, key, feature or merely kept, and why."""

import re
from collections.abc import Iterable

from flight_delays.infer.entry import Proposal, describe
from flight_delays.infer.personal import GROUPS, mentions, personal, words_of
from flight_delays.infer.rules import listed
from flight_delays.infer.survey import Facts, Survey
from flight_delays.infer.target import Target
from flight_delays.leakage import leakage

_MOST_SLICES = 3
_MOST_IN_A_SLICE = 12
_LONGEST_CATEGORY = 40
_IDENTIFIER_WORDS = (
    "id", "uuid", "guid", "key", "identifier", "ref", "reference", "serial", "no", "nr", "code", "index", "rowid",
)  # fmt: skip
_TIME_WORDS = (
    "time", "timestamp", "datetime", "ts", "date", "day", "at", "on", "when", "event", "scheduled", "occurred",
    "ordered", "created", "datum", "zeitpunkt", "zeit", "fecha", "hora", "data", "heure", "jour", "date de", "日付",
    "日期", "дата",
)  # fmt: skip
_OTHER_TIME_WORDS = (
    "updated", "modified", "changed", "loaded", "inserted", "ingested", "deleted", "expires", "expiry", "expiration",
    "until", "end", "ended", "valid", "due", "deadline", "closed", "built", "birth", "last", "next", "first", "to",
)  # fmt: skip


def propose(survey: Survey, target: Target, taken: dict[str, set[str]], new: Iterable[str]) -> list[Proposal]:
    """Propose an entry for each of some columns.

    Parameters
    ----------
    survey
        The measured rows.
    target
        What is predicted.
    taken
        The roles that the contract has given already, with their columns.
    new
        The columns to propose.
    """
    found = {name: _role(survey, survey.facts[name], target) for name in new}
    if not taken.get("time"):
        _choose_time(survey, found)
    if not taken.get("key"):
        _choose_key(survey, found)
    _keep_identifiers(found)
    _refuse_leakage(survey, found, target)
    _choose_slices(found, _MOST_SLICES - len(taken.get("slice", ())))
    for proposal in found.values():
        proposal.entry = describe(proposal, target)
    return list(found.values())


def _role(survey: Survey, facts: Facts, target: Target) -> Proposal:
    if facts.name == target.name:
        missing = f"{facts.nulls:,} of {facts.rows:,} rows have none, and the pipeline refuses them: leave them out"
        return Proposal(facts, ["target"], f"{target.task}: {target.why}", missing if facts.nulls else "")
    if not facts.present:
        return Proposal(facts, [], "empty in every row")
    what = personal(facts.name, facts.kind.name, survey.texts(facts.name), facts.distinct, facts.rows)
    if what:
        return Proposal(facts, [], f"likely {what}", f"likely {what}", personal=True)
    if facts.kind.nested:
        return Proposal(facts, [], facts.kind.note)
    if facts.distinct == 1:
        return Proposal(facts, [], "the same in every row")
    if facts.kind.name in {"date", "timestamp", "time"}:
        return _part_features(survey, facts)
    return _value_feature(facts)


def _value_feature(facts: Facts) -> Proposal:
    """Take a column's values as a feature, but for text that hardly repeats and for moments written as numbers."""
    look = facts.kind.doubt
    if look and facts.kind.example is not None:
        look = f"{look}: {facts.kind.example[:30]!r}"
    if facts.kind.name == "string" and not facts.counts:
        if facts.distinct >= facts.present / 2:
            why = facts.kind.doubt or f"{facts.distinct:,} different texts in {facts.present:,} rows"
            return Proposal(facts, [], why, look)
        if facts.length > _LONGEST_CATEGORY:
            return Proposal(facts, [], f"free text, {facts.length:.0f} characters on average", look)
    if facts.kind.name == "integer" and (unit := _since_1970(facts)):
        look = "a moment in time as a number: make it a timestamp"
        return Proposal(facts, [], f"{unit} since 1970, by name and size", look)
    if group := mentions(facts.name, GROUPS):
        look = look or "a group of people: drop its tag `feature` if it must not decide"
        return Proposal(facts, ["feature", "group"], f"a group of people, by the word {group!r}", look)
    why = (
        facts.kind.note
        or facts.kind.doubt
        or ("many values, hashed" if facts.kind.name == "string" and not listed(facts) else "")
    )
    return Proposal(facts, ["feature"], why, look)


def _part_features(survey: Survey, facts: Facts) -> Proposal:
    defaults = {
        "timestamp": ("hour", "weekday", "month"),
        "date": ("year", "month", "weekday"),
        "time": ("hour",),
    }
    counted = survey.parts(facts.name)
    parts = [part for part in defaults[facts.kind.name] if counted[part] > 1]
    why = f"by its {', '.join(parts)}" if parts else "no part of it varies"
    if facts.kind.note:
        why += f"; {facts.kind.note}"
    return Proposal(facts, ["feature"] if parts else [], why, facts.kind.doubt, parts=parts)


def _since_1970(facts: Facts) -> str:
    if mentions(facts.name, ("time", "timestamp", "ts", "date", "datetime", "at", "epoch", "unix")):
        for unit, size in (("seconds", 1), ("milliseconds", 1_000), ("microseconds", 1_000_000)):
            if 500_000_000 * size < facts.low and facts.high < 4_000_000_000 * size:
                return unit
    return ""


def _choose_time(survey: Survey, found: dict[str, Proposal]) -> None:
    """Choose the one column that says when a row happened: never empty, spread, and named so."""
    rated = []
    for place, (name, proposal) in enumerate(found.items()):
        facts = proposal.facts
        if facts.kind.name not in {"timestamp", "date"} or facts.nulls or proposal.personal or facts.distinct < 5:
            continue
        rating = 2 * bool(mentions(name, _TIME_WORDS)) - 3 * bool(mentions(name, _OTHER_TIME_WORDS))
        rated.append((-rating, facts.kind.name != "timestamp", place, name))
    rated.sort()
    if not rated:
        return
    name = rated[0][3]
    proposal, counted = found[name], survey.parts(name)
    days = (proposal.facts.high - proposal.facts.low).days
    proposal.parts = [
        part for part, period in (("hour", 2), ("weekday", 14)) if counted.get(part, 0) > 1 and days >= period
    ]
    proposal.roles = ["time", "feature"] if proposal.parts else ["time"]
    proposal.why = "when it happened: splits go by it"
    others = [other for *_, other in rated[1:]]
    if others:
        proposal.look = f"taken as the event's time rather than {', '.join(map(repr, others[:3]))}"
        proposal.why += f"; chosen over {', '.join(others[:3])}"
    if proposal.facts.kind.doubt:
        proposal.look = "; ".join(filter(None, [proposal.facts.kind.doubt, proposal.look]))


def _choose_key(survey: Survey, found: dict[str, Proposal]) -> None:
    """Choose the column that names a row, or an identifier that does so together with the time."""
    free = [p for p in found.values() if not p.personal and "target" not in p.roles and not p.facts.nulls]
    single = [p for p in free if _names_rows(p.facts)]
    single.sort(key=lambda p: not _identifier(p.facts.name))
    for place, proposal in enumerate(single):
        proposal.unique = True
        proposal.roles = ["key"] if place == 0 else []
        proposal.why = "names a row: never empty, never twice" if place == 0 else "names a row too"
        proposal.position = int(place == 0)
    if single:
        return
    time = next((p for p in free if "time" in p.roles), None)
    for proposal in free:
        named = proposal.facts.kind.name in {"integer", "string"} and _identifier(proposal.facts.name)
        if time and named and survey.names_a_row([time.facts.name, proposal.facts.name]):
            time.roles.append("key")
            time.position = 1
            proposal.roles, proposal.position = ["key"], 2
            proposal.why = f"names a row together with {time.facts.name}"
            return


def _names_rows(facts: Facts) -> bool:
    if not facts.unique or facts.kind.nested:
        return False
    if _identifier(facts.name):
        return facts.kind.name in {"integer", "string"}
    if facts.kind.name == "string":
        return facts.rows >= 50 and facts.length <= _LONGEST_CATEGORY
    if facts.kind.name != "integer" or facts.rows < 50:
        return False
    counter = facts.high - facts.low < 2 * facts.rows
    return bool(counter or facts.rows >= 1000)  # so many amounts would not all differ


def _identifier(name: str) -> bool:
    last = words_of(name).split()[-1:]
    return bool(last and last[0] in _IDENTIFIER_WORDS) or words_of(name).startswith((" id ", " uuid "))


def _keep_identifiers(found: dict[str, Proposal]) -> None:
    for proposal in found.values():
        facts = proposal.facts
        if proposal.roles != ["feature"] or facts.kind.name not in {"integer", "string"} or not _identifier(facts.name):
            continue
        if facts.kind.name == "integer" and not re.search(r"index|code|no |nr ", words_of(facts.name)):
            proposal.roles, proposal.why = [], "an identifier, by its name"
            if facts.counts:
                proposal.why += "; if it is a category, make it a string and tag it feature"
        elif facts.kind.name == "string" and not facts.counts:
            proposal.roles, proposal.why = [], "an identifier, by its name and many values"


def _refuse_leakage(survey: Survey, found: dict[str, Proposal], target: Target) -> None:
    names = [name for name, proposal in found.items() if "feature" in proposal.roles and "time" not in proposal.roles]
    for start in range(0, len(names), 20):
        sample = survey.sample([*names[start : start + 20], target.name])
        for name in names[start : start + 20]:
            reason = leakage(sample.column(name), sample.column(target.name), target.task)
            if reason:
                proposal = found[name]
                proposal.roles, proposal.parts, proposal.why = [], [], reason
                proposal.look = "gives the target away: tag it feature only if it is known before the event"


def _choose_slices(found: dict[str, Proposal], most: int) -> None:
    """Choose the columns by whose values quality is reported: those that split most rows into groups of some size."""
    rated = []
    for place, proposal in enumerate(found.values()):
        facts = proposal.facts
        named = facts.kind.name == "boolean" or (facts.kind.name == "string" and listed(facts))
        if "feature" not in proposal.roles or not named or not 2 <= len(facts.counts) <= _MOST_IN_A_SLICE:
            continue
        least = max(0.01 * facts.rows, min(30, facts.rows / 20))
        covered = [count for count in facts.counts.values() if count >= least]
        if len(covered) > 1 and max(covered) < 0.95 * facts.rows:
            rated.append((-round(sum(covered) / facts.rows, 2), place, proposal))
    for _, _, proposal in sorted(rated, key=lambda item: item[:2])[: max(0, most)]:
        proposal.roles.append("slice")
