"""How the platform's own code connects to PostgreSQL: a dead peer is noticed, at either end."""

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_NOTICED: Final = (("idle", 30), ("interval", 10), ("count", 3))
_KEEPALIVES: Final = {f"keepalives_{name}": value for name, value in _NOTICED}
"""So a client notices within a minute that the server is gone."""
_SERVER_KEEPALIVES: Final = {f"tcp_keepalives_{name}": value for name, value in _NOTICED}
"""And the server that the client's machine is: it would keep its locks for two hours by default."""

LOGIN_REFUSED: Final = re.compile(
    'password authentication failed|role ".*" (does not exist|is not permitted to log in)'
)
"""What PostgreSQL says under SQLSTATE class 28; psycopg2 gives no code of a connection that failed."""


def connect(dsn: str, name: str, **settings: object) -> "Connection":
    """Return a connection.

    Args:
        dsn: libpq's connection string.
        name: what PostgreSQL shows of it, its `application_name`.
        settings: of the session, such as `lock_timeout="20s"`; no blanks in them.

    Raises:
        psycopg2.OperationalError: PostgreSQL can't be reached, or refuses the login.
    """
    import psycopg2

    chosen = {**_SERVER_KEEPALIVES, **settings}
    options = " ".join(f"-c {setting}={value}" for setting, value in chosen.items())
    parameters: dict[str, Any] = {"options": options, **_KEEPALIVES}
    # The server cuts names at 63 bytes, and says so.
    return psycopg2.connect(dsn, application_name=name[:63], **parameters)
