"""Whether a server answers: asked the way its clients ask it, without a secret."""

import subprocess
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from dataplatform.stack.layout import Plan

_SECONDS: Final = 5.0


def answers(server: str, plan: Plan) -> bool:
    """Whether this server, the user's or ours, takes requests now."""
    import httpx

    try:
        return _PROBES[server](plan)
    # A ValueError: what answers speaks no JSON, so it is another server.
    except (httpx.HTTPError, OSError, subprocess.SubprocessError, ValueError):
        return False


def _ok(address: str, path: str) -> bool:
    import httpx

    return httpx.get(address.rstrip("/") + path, timeout=_SECONDS, trust_env=False).is_success


def vault(plan: Plan) -> bool:
    """Whether Vault is initialised, unsealed and active."""
    return _ok(plan.address("vault"), "/v1/sys/health")


def postgres(plan: Plan) -> bool:
    """Whether PostgreSQL takes connections."""
    import socket

    address = urlsplit(plan.address("postgres"))
    host, port = address.hostname or "", address.port or 5432
    if "postgres" not in plan.homes:
        with socket.create_connection((host, port), timeout=_SECONDS):
            return True
    tool = str(plan.homes["postgres"] / "bin" / "pg_isready")
    command = [tool, "-q", "-h", host, "-p", str(port), "-t", str(int(_SECONDS))]
    return subprocess.run(command, check=False, timeout=2 * _SECONDS).returncode == 0  # noqa: S603


def minio(plan: Plan) -> bool:
    """Whether the object store takes requests."""
    if "minio" in plan.given:  # Another S3 server has no such path, and answers with an error.
        import httpx

        return httpx.get(plan.given["minio"], timeout=_SECONDS).status_code < 500  # noqa: PLR2004
    return _ok(plan.address("minio"), "/minio/health/ready")


def catalog(plan: Plan) -> bool:
    """Whether the REST catalog serves both origins."""
    template = plan.address("catalog")
    return all(_ok(template.format(origin=o), "/v1/config") for o in ("live", "recorded"))


def trino(plan: Plan) -> bool:
    """Whether Trino has started; its first seconds may still fail a query."""
    import httpx

    answer = httpx.get(f"{plan.address('trino')}/v1/info", timeout=_SECONDS, trust_env=False)
    return answer.is_success and answer.json().get("starting") is False


def trino_queries(plan: Plan) -> bool:
    """Whether Trino answers a real query over both lakes."""
    import trino as client

    address = urlsplit(plan.address("trino"))
    connection = client.dbapi.connect(
        host=address.hostname,
        port=address.port,
        user="stack",
        http_scheme=address.scheme,
        source="dp stack",
        request_timeout=_SECONDS,
    )
    try:
        for name in ("lake", "recorded"):
            connection.cursor().execute(f"SHOW SCHEMAS FROM {name}").fetchall()
    except (client.exceptions.Error, client.exceptions.TrinoConnectionError, OSError):
        return False
    finally:
        connection.close()
    return True


_PROBES: Final[dict[str, Callable[[Plan], bool]]] = {
    "vault": vault,
    "postgres": postgres,
    "minio": minio,
    "catalog": catalog,
    "trino": trino,
}
