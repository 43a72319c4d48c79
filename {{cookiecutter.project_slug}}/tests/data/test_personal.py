"""Are columns that name a person found, and ordinary ones left alone?"""

import random
from collections.abc import Callable

import pytest

from flight_delays.infer.personal import GROUPS, mentions, personal

ROWS = 200


def texts(make: Callable[[random.Random], object], count: int = ROWS) -> list[str]:
    random_ = random.Random(5)
    return sorted({str(make(random_)) for _ in range(count)})


def found(name: str, values: list[str], kind: str = "string", rows: int = ROWS) -> str | None:
    return personal(name, kind, values, len(values), rows)


def luhn(body: str) -> str:
    total = sum(
        sum(divmod(int(digit) * (2 if place % 2 == 0 else 1), 10)) for place, digit in enumerate(reversed(body))
    )
    return body + str(-total % 10)


def iban(r: random.Random) -> str:
    account = f"{r.randrange(10**18):018d}"
    return f"DE{98 - int(account + '131400') % 97:02d}{account}"


def mail(r: random.Random) -> str:
    return f"someone{r.randrange(10**6)}@example.org"


def card(r: random.Random) -> str:
    return luhn(f"4{r.randrange(10**14):014d}")


def phone(r: random.Random) -> str:
    return f"+49 {r.randrange(100, 999)} {r.randrange(10**6, 10**7)}"


def social_security(r: random.Random) -> str:
    return f"{r.randrange(100, 600)}-{r.randrange(10, 99)}-{r.randrange(1000, 9999)}"


def address(r: random.Random) -> str:
    return f"{r.randrange(1, 300)} Long Road {r.randrange(100)}"


def machine(r: random.Random) -> str:
    return f"10.{r.randrange(256)}.{r.randrange(256)}.7"


def day(r: random.Random) -> str:
    return f"{r.randrange(1940, 2005)}-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d}"


def name(r: random.Random) -> str:
    return f"{r.choice('ABCDEFGH')}lice {r.choice('KLMNOP')}ones{r.randrange(50)}"


def spanish_identity(r: random.Random) -> str:
    number = r.randrange(10**7, 10**8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"  # pragma: allowlist secret


def amount(r: random.Random) -> object:
    return r.randrange(10**8, 10**9)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (mail, "e-mail addresses"),
        (card, "card numbers"),
        (iban, "account numbers"),
        (phone, "phone numbers"),
        (social_security, "national identity numbers"),
        (spanish_identity, "national identity numbers"),
        (machine, "IP addresses"),
    ],
)
def test_values_of_a_known_shape_are_personal_under_any_name(
    make: Callable[[random.Random], object], what: str
) -> None:
    assert found("c7", texts(make)) == what


@pytest.mark.parametrize(
    ("column", "make", "what"),
    [
        ("last_name", name, "names"),
        ("Nachname", name, "names"),
        ("nom", name, "names"),
        ("Name", name, "names"),
        ("姓名", name, "names"),
        ("homeAddress", address, "postal addresses"),
        ("Straße", address, "postal addresses"),
        ("dirección", address, "postal addresses"),
        ("mobile", amount, "phone numbers"),
        ("Konto-Nr kontonummer", amount, "account numbers"),
        ("passport_number", amount, "national identity numbers"),
    ],
)
def test_a_column_is_personal_by_its_name_where_its_values_fit(
    column: str, make: Callable[[random.Random], object], what: str
) -> None:
    assert found(column, texts(make)) == what
    assert found("c7", texts(make)) is None


@pytest.mark.parametrize("column", ["birth_date", "DateOfBirth", "dob", "Geburtsdatum", "date_naissance"])
def test_a_date_of_birth_is_personal_whatever_its_type(column: str) -> None:
    assert found(column, texts(day), "date") == "birth dates"
    assert found(column, texts(day), "string") == "birth dates"
    assert found("ordered_on", texts(day), "date") is None


def test_a_year_of_birth_is_personal_and_a_birth_weight_is_not() -> None:
    assert found("year_birth", [str(year) for year in range(1940, 2000)], "integer") == "birth dates"
    assert found("birth_weight", [str(weight) for weight in range(2400, 4400, 20)], "integer") is None


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("phone_service", ["Yes", "No"]),
        ("street", ["Pave", "Grvl"]),
        ("card", ["gold", "silver", "none"]),
        ("mail_class", ["first", "second"]),
        ("name", ["Ford", "Fiat", "Opel"]),
    ],
)
def test_a_word_alone_does_not_make_a_category_personal(column: str, values: list[str]) -> None:
    assert found(column, values) is None


@pytest.mark.parametrize("size", [9, 10, 11, 12, 13, 15, 16, 18])
def test_long_numbers_without_valid_check_digits_are_not_personal(size: int) -> None:
    values = texts(lambda r: r.randrange(10 ** (size - 1), 10**size))
    assert found("reading", values, "integer") is None
    assert found("reading", values) is None


def test_one_number_with_a_valid_check_digit_proves_nothing() -> None:
    assert found("c7", [luhn("40000000000000" + "1")], "integer") is None


@pytest.mark.parametrize("make", [lambda r: round(r.gauss(0, 1), 6), lambda r: round(r.random() * 1e9, 3)])
def test_measured_numbers_are_never_personal(make: Callable[[random.Random], object]) -> None:
    for column in ("height", "phone", "card", "address", "birth_rate", "ssn", "account number"):
        assert found(column, texts(make), "number") is None


def test_free_text_with_a_few_mail_addresses_is_personal() -> None:
    notes = [f"called again about order {number}" for number in range(195)]
    assert found("notes", notes) is None
    assert found("notes", notes + [f"write to a{number}@example.org please" for number in range(5)]) is not None


def test_versions_are_no_ip_addresses() -> None:
    assert found("app_version", texts(machine)) is None


@pytest.mark.parametrize("column", ["sex", "Gender", "applicant_race", "age group", "ageGroup", "marital-status"])
def test_columns_that_group_people_are_known_by_name(column: str) -> None:
    assert mentions(column, GROUPS)


@pytest.mark.parametrize("column", ["sextant", "racecourse", "engender", "age"])
def test_words_that_only_contain_such_a_name_do_not_count(column: str) -> None:
    assert mentions(column, GROUPS) is None
