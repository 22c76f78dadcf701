"""Addresses of servers as settings take them: whole, without a login, and never repeated in an error."""

from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator

_WEB: Final = frozenset({"http", "https"})
_POSTGRES: Final = frozenset({"postgresql", "postgres"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def _server(value: str) -> str:
    """Take the address of a server that speaks HTTP: no more than scheme, host and port."""
    parts = _split(value, _WEB)
    _refuse("a path", parts.path.strip("/"))
    _refuse("a query", parts.query)
    return value


def _catalog(value: str) -> str:
    """Take the template of the two catalogs' addresses, so that live and recorded stay apart."""
    parts = _split(value, _WEB)
    _refuse("a query", parts.query)
    rest = value.replace("{origin}", "")
    if "{origin}" not in value or "{" in rest or "}" in rest:
        raise ValueError("live and recorded need a catalog each: name them by {origin}")
    return value


def _postgres(value: str) -> str:
    """Take the address of PostgreSQL, whose options may follow: `?sslmode=verify-full`."""
    parts = _split(value, _POSTGRES)
    _refuse("a database", parts.path.strip("/"))
    named = {pair.partition("=")[0].lower() for pair in parts.query.split("&")}
    _refuse("a login or a database", named & {"user", "password", "passfile", "dbname"})
    return value


def _split(value: str, schemes: frozenset[str]) -> SplitResult:
    try:
        parts = urlsplit(value)
        known = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:  # A port that is no number; its own text would repeat it.
        known = False
    if not known:
        raise ValueError(f"write it as {max(schemes)}://HOST:PORT")
    _refuse("a user or a password (put them into Vault)", "@" in parts.netloc)
    _refuse("a fragment", parts.fragment)
    return parts


def _refuse(what: str, found: object) -> None:
    if found:
        raise ValueError(f"{what} may not stand in it")


ServerAddress = Annotated[str, AfterValidator(_server)]
"""Such as `http://127.0.0.1:9000`."""

CatalogAddress = Annotated[str, AfterValidator(_catalog)]
"""Such as `http://127.0.0.1:8181/{origin}`."""

PostgresAddress = Annotated[str, AfterValidator(_postgres)]
"""Such as `postgresql://127.0.0.1:5432`, or with options `postgresql://db.example.org?sslmode=require`."""


def in_database(address: str, database: str) -> str:
    """Return the address of one database of a PostgreSQL; options such as `sslmode` stay."""
    return urlsplit(address)._replace(scheme="postgresql", path=f"/{database}").geturl()


def is_loopback(address: str) -> bool:
    """Whether what is said to this address never leaves the machine."""
    return urlsplit(address).hostname in _LOOPBACK
