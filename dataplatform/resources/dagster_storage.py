"""Dagster's own storage on servers: PostgreSQL and compute logs in S3, with logins from Vault.

Both are named in `dagster.servers.yaml`. No login stands in a file or an environment variable: each
process asks Vault when it connects, so a rotation reaches those that run for months.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
import psycopg2
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_postgres.storage import DagsterPostgresStorage
from sqlalchemy import Engine, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.engine.url import URL, make_url

from dataplatform.addresses import in_database
from dataplatform.lake.postgres import LOGIN_REFUSED
from dataplatform.lake.secrets import SecretError
from dataplatform.lake.store.buckets import LOGS
from dataplatform.profiles import Settings
from dataplatform.resources.servers import required
from dataplatform.resources.vault import open_secrets

if TYPE_CHECKING:
    from dagster._config.config_schema import UserConfigSchema
    from dagster._serdes import ConfigurableClassData

_log: Final = logging.getLogger(__name__)
DATABASE: Final = "dagster"
_PLUGIN: Final = "dataplatform_vault"
_REMEMBERED_SECONDS: Final = 300.0
"""Far below the time between two rotations, until which the login before stays valid."""


class RememberedSecret:
    """A secret that is asked for again when it is older than five minutes.

    While Vault is sealed or away, the last one goes on: a rotation leaves it valid until the next.
    """

    def __init__(self, path: str) -> None:
        """Keep where it is; nothing is asked yet."""
        self._path = path
        self._lock = threading.Lock()
        self._value: Mapping[str, str] = {}
        self._asked_at = float("-inf")
        self._warned = False

    def __call__(self) -> Mapping[str, str]:
        """Return the secret as it was at most five minutes ago."""
        with self._lock:
            if time.monotonic() - self._asked_at > _REMEMBERED_SECONDS:
                self._ask()
                # Also where Vault is away: each look may take as long as its client is patient.
                self._asked_at = time.monotonic()
            return self._value

    def _ask(self) -> None:
        try:
            self._value = open_secrets(Settings()).read(self._path)
        except SecretError as error:
            if not self._value:
                raise
            if not self._warned:
                _log.warning("%s The last one goes on.", error)
            self._warned = True
        else:
            self._warned = False

    def forget(self) -> None:
        """Ask again at the next call: the secret may have been wrong, and been corrected."""
        self._asked_at = float("-inf")


_key: Final = RememberedSecret("minio/platform")


def fresh_key() -> dict[str, str]:
    """Return the key to the store as botocore takes one that expires: it asks again an hour later."""
    key = _key()
    until = datetime.now(UTC) + timedelta(hours=1)
    return {
        "access_key": key["access_key"],
        "secret_key": key["secret_key"],
        "token": "",
        "expiry_time": until.isoformat(),
    }


_login: Final = RememberedSecret("postgres/dagster")
_REMEDY: Final = (
    "Remedy: see that PostgreSQL runs (`dp stack status`), and that the secret postgres/dagster in"
    " Vault is a login that it knows."
)


class VaultLogin(CreateEnginePlugin):
    """Gives each new connection of an engine the user and password that are current.

    A plug-in of SQLAlchemy, asked for in the URL: Dagster makes engines of its URL in several places.
    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        """Take part in the making of an engine; nothing is changed yet."""
        super().__init__(url, kwargs)

    def update_url(self, url: URL) -> URL:
        """Return the URL as it is: nothing of it is for this plug-in alone."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Have the engine log in as Vault says."""

        @event.listens_for(engine, "do_connect")
        def _log_in(_dialect: Any, _record: Any, args: Any, params: dict[str, Any]) -> Any:
            current = _login()
            login = {"user": current["username"], "password": current["password"]}
            try:
                return psycopg2.connect(*args, **{**params, **login})
            except psycopg2.OperationalError as error:
                if LOGIN_REFUSED.search(str(error)):
                    _login.forget()
                # Of the same kind: Dagster tries again what fails so.
                raise psycopg2.OperationalError(f"{str(error).strip()}. {_REMEDY}") from None


plugins.register(_PLUGIN, __name__, VaultLogin.__name__)


class VaultPostgresStorage(DagsterPostgresStorage):
    """Runs, events and schedules in PostgreSQL; its address is `DATAPLATFORM_POSTGRES_URL`."""

    @classmethod
    def config_type(cls) -> "UserConfigSchema":
        """Return that nothing is configured here: address and login come from the settings."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: "ConfigurableClassData | None", config_value: Mapping[str, Any]
    ) -> "VaultPostgresStorage":
        """Make the storage; the tables are made where there are none."""
        del config_value
        return cls(
            inst_data=inst_data, postgres_url=storage_url(required(Settings(), "postgres_url"))
        )


def storage_url(address: str) -> str:
    """Return what SQLAlchemy reaches Dagster's database by; the login is added when it connects."""
    url = make_url(in_database(address, DATABASE))
    # Named, as SQLAlchemy 2.1 takes psycopg 3 where no driver is.
    url = url.set(drivername="postgresql+psycopg2").update_query_dict({"plugin": _PLUGIN})
    return url.render_as_string()


def _local_dir() -> str | None:
    home = os.environ.get("DAGSTER_HOME")
    return str(Path(home) / "compute-logs") if home else None


class VaultS3ComputeLogs(S3ComputeLogManager):
    """What steps print, in the bucket `dagster-logs`."""

    def __init__(
        self, local_dir: str | None = None, inst_data: "ConfigurableClassData | None" = None
    ) -> None:
        """Open the bucket; logs are gathered in `local_dir` and sent at the end of each step.

        None gathers them in Dagster's home: a system's temporary folder is open to all its users.
        """
        settings = Settings()
        endpoint, region = required(settings, "s3_endpoint"), settings.s3_region
        # A region of its own, as boto3 refuses to make a client without any.
        super().__init__(
            LOGS.name,
            local_dir=local_dir or _local_dir(),
            inst_data=inst_data,
            prefix="compute-logs",
            endpoint_url=endpoint,
            # An empty stderr as well: by it the UI knows that a step's logs are whole.
            skip_empty_files=False,
            upload_interval=30,
            region=region,
        )
        # Asked for with the first request: Dagster's instance opens while Vault is away.
        credentials = DeferredRefreshableCredentials(refresh_using=fresh_key, method="vault")
        session = botocore.session.get_session()
        session._credentials = credentials  # noqa: SLF001  botocore's way for credentials of one's own
        self._s3_session = boto3.Session(botocore_session=session).client(
            "s3",
            endpoint_url=endpoint,
            region_name=region,
            config=Config(s3={"addressing_style": "path"}, connect_timeout=10, read_timeout=60),
        )

    @classmethod
    def config_type(cls) -> "UserConfigSchema":
        """Return where logs are gathered before they are sent."""
        from dagster import Field, StringSource

        return {"local_dir": Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: "ConfigurableClassData | None", config_value: Mapping[str, Any]
    ) -> "VaultS3ComputeLogs":
        """Make the log manager."""
        return cls(inst_data=inst_data, **config_value)
