"""Could a column name a person? Judged by the words in its name and by what its values look like.

A word alone is not enough (`phone_service` is yes or no), and digits alone are not enough (one number in ten has a
valid check digit): each kind says what both must look like. The values themselves never leave this module.
"""

import importlib
import ipaddress
import re
import unicodedata
from collections.abc import Callable

from stdnum import iban, luhn

GROUPS = (
    "sex", "gender", "race", "ethnicity", "ethnic", "age group", "agegroup", "age band", "nationality", "religion",
    "disability", "disabled", "marital status", "marital", "sexual orientation", "geschlecht",
    "religionszugehorigkeit", "familienstand", "sexe", "sexo", "genero", "sesso", "etnia", "raza", "geslacht",
)  # fmt: skip
_NAME_WORDS = (
    "first name", "firstname", "last name", "lastname", "full name", "fullname", "surname", "forename", "given name",
    "family name", "middle name", "maiden name", "customer name", "client name", "patient name", "passenger name",
    "employee name", "student name", "user name", "username", "person name", "contact name", "driver name",
    "owner name", "holder name", "cardholder", "vorname", "nachname", "familienname", "kundenname", "prenom",
    "nom complet", "nombre completo", "apellido", "apellidos", "nome completo", "cognome", "sobrenome", "voornaam",
    "achternaam", "imie", "nazwisko", "имя", "фамилия", "姓名", "名前", "氏名", "이름",
)  # fmt: skip
_NAME_ALONE = ("name", "names", "nom", "nombre", "nome", "naam")  # of whom or what, only the values can tell
_EMAIL_WORDS = ("email", "e mail", "mail", "emailaddress", "correo", "courriel", "почта", "邮箱")
_PHONE_WORDS = (
    "phone", "phonenumber", "telephone", "mobile", "cell", "cellphone", "tel", "fax", "msisdn", "telefon",
    "telefonnummer", "handy", "handynummer", "telefono", "telefone", "celular", "movil", "cellulare", "portable",
    "telefoon", "телефон", "电话", "電話",
)  # fmt: skip
_CARD_WORDS = (
    "card", "cardnumber", "credit card", "creditcard", "pan", "cc", "kreditkarte", "kartennummer", "tarjeta",
    "carte",
)  # fmt: skip
_ACCOUNT_WORDS = (
    "iban", "account number", "account no", "accountnumber", "bank account", "bankaccount", "kontonummer", "konto",
    "kontonr", "cuenta", "numero cuenta", "numero compte", "conto corrente", "rekeningnummer", "sort code", "bic",
    "swift",
)  # fmt: skip
_ADDRESS_WORDS = (
    "address", "addr", "street", "home address", "strasse", "straße", "anschrift", "adresse", "rue", "calle",
    "direccion", "domicilio", "indirizzo", "via", "endereco", "rua", "adres", "ulica", "адрес", "地址", "住所",
)  # fmt: skip
_BIRTH_WORDS = (
    "birth", "birthdate", "birthday", "dateofbirth", "dob", "yob", "born", "geburtsdatum", "geburtstag",
    "geburtsjahr", "geboren", "naissance", "nacimiento", "nascita", "nascimento", "geboortedatum", "urodzenia",
    "рождения", "生日", "出生日期",
)  # fmt: skip
_IDENTITY_WORDS = (
    "ssn", "social security", "social security number", "passport", "passport number", "national id",
    "identity number", "identity card", "id card", "tax id", "taxid", "tin", "nif", "nie", "dni", "curp", "rfc",
    "cpf", "rg", "aadhaar", "aadhar", "pesel", "bsn", "nino", "national insurance", "nhs number", "personnummer",
    "fodselsnummer", "cpr", "hetu", "nir", "codice fiscale", "steuer id", "steuernummer",
    "sozialversicherungsnummer", "ausweisnummer", "reisepass", "driver license", "drivers license",
    "driving licence", "license number", "licence number", "insurance number", "паспорт", "身份证",
)  # fmt: skip
_ADDRESS_OF_MACHINE = ("ip", "ipaddress", "ipv4", "ipv6", "ip address")
# Check digits strong enough that ordinary numbers do not pass them; imported only when digits could be one.
_IDENTITIES = (
    "be.nn", "bg.egn", "br.cpf", "ca.sin", "ch.ssn", "cn.ric", "cz.rc", "de.idnr", "es.dni", "es.nie", "fi.hetu",
    "fr.nir", "gb.nhs", "in_.aadhaar", "it.codicefiscale", "kr.rrn", "mx.curp", "nl.bsn", "no.fodselsnummer",
    "pl.pesel", "ro.cnp", "se.personnummer", "tr.tckimlik", "za.idnr",
)  # fmt: skip
_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(\.[\w-]+)*\.[a-zA-Z]{2,}")
_PHONE = re.compile(
    r"\+[0-9][0-9 ().\-/]{6,20}|(\(0?[0-9]{2,5}\)|0[0-9]{1,4}|[0-9]{3})[ ./-]{1,2}[0-9]{2,4}[ ./-]?[0-9]{2,9}"
)
_CARD = re.compile(r"(4[0-9]{12}([0-9]{3}){0,2}|(5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|3[068][0-9]{12}|6[0-9]{15})")
_SOCIAL_SECURITY = re.compile(r"(?!000|666|9..)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}")
_ENOUGH = 10  # fewer different values prove nothing by their check digits
_VARIED = 20  # with no more different values than this, a column sorts people into groups; it names none


def words_of(name: str) -> str:
    """Split a column's name into lower-case words without accents, with a space at each end.

    Parameters
    ----------
    name
        Such as `Kunden-Straße`, `birthDate` or `phone1`.
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d])(?=[0-9])", " ", name)
    plain = "".join(c for c in unicodedata.normalize("NFKD", parted) if not unicodedata.combining(c))
    words = re.split(r"[\W_]+", plain.casefold())
    return f" {' '.join(word for word in words if word)} "


def mentions(name: str, phrases: tuple[str, ...]) -> str | None:
    """Find the first of some phrases that stands in a column's name, as whole words where the script has such.

    Parameters
    ----------
    name
        The column.
    phrases
        Lower-case words or groups of words.
    """
    words = words_of(name)
    for phrase in phrases:
        plain = words_of(phrase)
        if plain in words or (not phrase.isascii() and len(phrase) < 5 and phrase in name):
            return phrase
    return None


def personal(name: str, kind: str, texts: list[str], distinct: int, rows: int) -> str | None:
    """Say what personal data a column likely holds, `None` where it holds none.

    Parameters
    ----------
    name
        The column.
    kind
        Its logical type.
    texts
        A sample of its different values, as text.
    distinct, rows
        How many different values, in how many rows.
    """
    if kind in {"boolean", "time"} or not texts:
        return None
    varied = distinct > min(_VARIED, rows / 2)
    for what, found in _TESTS.items():
        if found(name, kind, texts, varied):
            return what
    alone = kind == "string" and words_of(name).strip() in _NAME_ALONE
    return "names" if alone and varied and distinct > rows / 2 else None


def _share(texts: list[str], test: Callable[[str], object]) -> float:
    return sum(1 for text in texts if test(text)) / len(texts)


def _digits(text: str) -> str:
    return re.sub(r"\.0$|\D", "", text)


def _names(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    return bool(kind == "string" and varied and mentions(name, _NAME_WORDS) and _share(texts, _has_letter) > 0.5)


def _has_letter(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _emails(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if kind != "string":
        return False
    share = _share(texts, _EMAIL.search)
    return share >= 0.01 or bool(share and varied and mentions(name, _EMAIL_WORDS))


def _phones(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if not varied or kind in {"date", "timestamp"}:
        return False
    if mentions(name, _PHONE_WORDS):
        return _share(texts, lambda text: 6 <= len(_digits(text)) <= 15 and not re.search(r"\.[1-9]", text)) > 0.8
    if kind != "string" or _share(texts, _SOCIAL_SECURITY.fullmatch) > 0.5:
        return False
    return _share(texts, lambda text: _PHONE.fullmatch(text) and 9 <= len(_digits(text)) <= 15) > 0.8


def _cards(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if kind not in {"string", "integer"}:
        return False
    if varied and mentions(name, _CARD_WORDS) and _share(texts, lambda text: 13 <= len(_digits(text)) <= 19) > 0.8:
        return True
    numbers = [re.sub(r"[ -]", "", text) for text in texts]
    return len(texts) >= 5 and _share(numbers, lambda text: _CARD.fullmatch(text) and luhn.is_valid(text)) > 0.9


def _accounts(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if kind not in {"string", "integer"}:
        return False
    if kind == "string" and _share(texts, iban.is_valid) > 0.5:
        return True
    return bool(varied and mentions(name, _ACCOUNT_WORDS) and _share(texts, lambda text: len(_digits(text)) >= 5) > 0.8)


def _addresses(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    return bool(
        kind == "string" and varied and mentions(name, _ADDRESS_WORDS) and not _machines(name, kind, texts, True)
    )


def _births(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if not varied or not mentions(name, _BIRTH_WORDS):
        return False
    if kind in {"date", "timestamp"}:
        return True
    return _share(texts, lambda text: re.search(r"(?<!\d)(19|20)\d\d(\.0)?(?!\d)", text)) > 0.8 and kind != "number"


def _identities(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if kind not in {"string", "integer"}:
        return False
    if varied and mentions(name, _IDENTITY_WORDS) and _share(texts, lambda text: len(_digits(text)) >= 4) > 0.8:
        return True
    if len(texts) < _ENOUGH:
        return False
    if kind == "string" and _share(texts, _SOCIAL_SECURITY.fullmatch) > 0.9:
        return True
    if _share(texts, lambda text: len(text) >= 9 and len(_digits(text)) >= 5 and len(text) <= 20) < 0.9:
        return False
    return any(_share(texts, _check_of(country)) > 0.95 for country in _IDENTITIES)


def _check_of(country: str) -> Callable[[str], bool]:
    check: Callable[[str], bool] = importlib.import_module(f"stdnum.{country}").is_valid
    return check


def _machines(name: str, kind: str, texts: list[str], varied: bool) -> bool:
    if kind != "string" or mentions(name, ("version", "release")):
        return False
    share = _share(texts, _is_machine)
    return share > 0.9 and (len(texts) > 1 or bool(mentions(name, _ADDRESS_OF_MACHINE)) or varied)


def _is_machine(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_TESTS: dict[str, Callable[[str, str, list[str], bool], bool]] = {
    "e-mail addresses": _emails,
    "card numbers": _cards,
    "account numbers": _accounts,
    "national identity numbers": _identities,
    "IP addresses": _machines,
    "phone numbers": _phones,
    "birth dates": _births,
    "postal addresses": _addresses,
    "names": _names,
}
