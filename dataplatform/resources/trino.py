"""Trino as a resource: SQL over the lake's tables and views, and over Dagster's own database."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import ConfigurableResource, InitResourceContext, get_dagster_logger
from pydantic import ConfigDict, PrivateAttr, field_validator

from dataplatform.addresses import ServerAddress
from dataplatform.profiles import Settings, TrinoAuth

if TYPE_CHECKING:
    from dataplatform.lake.secrets import SecretStore
    from dataplatform.lake.sql_engine import QueryResult, ResultStream
    from dataplatform.lake.trino.client import Login, Progress, TrinoClient

SECRET: Final = "trino/platform"  # noqa: S105  a path
_RUN_TAG: Final = "dagster/run_id"


class TrinoResource(ConfigurableResource):
    """A Trino server.

    No field holds a secret: Dagster keeps a resource's fields in its database. The password
    (`username`, `password`) or token (`token`) is read from the secret `trino/platform` when the
    first statement is sent.

    Statements that only read, and those that are as good done twice, are tried again while Trino is
    away, starting up or full; any other is sent once. A statement that is under way when the run is
    cancelled is cancelled too. Every method raises a `QueryError` whose message names cause and
    remedy; `dataplatform.lake.trino.errors` lists its types.

    Attributes:
        url: such as `https://trino.example.org:8443`, without user and password.
        user: as whom; with `password`, the secret says.
        auth: none, password or jwt.
        ca_file: the authority that signed Trino's certificate; None, the system's.
        catalog: where names without a catalog are looked up.
        source: what Trino's page calls the caller; the run's id is a client tag.
        request_seconds: how long one HTTP request may take.
        query_seconds: how long one statement may take, its queueing included.
        retry_seconds: how long a statement that changes nothing is tried again.
    """

    # What is refused may hold a password: it is not repeated.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: ServerAddress | None = None
    user: str = "dataplatform"
    # Dagster's config knows no Literal.
    auth: str = "none"
    ca_file: str | None = None
    catalog: str = "lake"
    source: str = "dataplatform"
    request_seconds: float = 60.0
    query_seconds: float = 900.0
    retry_seconds: float = 30.0
    _client: "TrinoClient | None" = PrivateAttr(default=None)
    _run_id: str | None = PrivateAttr(default=None)

    @field_validator("auth")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in TrinoAuth.__args__:
            raise ValueError(f"auth is {', '.join(TrinoAuth.__args__)}, not {value!r}")
        return value

    @classmethod
    def from_settings(cls, settings: Settings) -> "TrinoResource":
        """Describe Trino as the settings say; nothing is read or asked yet."""
        return cls(
            url=settings.trino_url,
            user=settings.trino_user,
            auth=settings.trino_auth,
            ca_file=str(settings.trino_ca_file) if settings.trino_ca_file else None,
        )

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Keep the run's id: Trino's page shows which run asks."""
        self._run_id = context.run.run_id if context.run else None

    def teardown_after_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def query(
        self, sql: str, params: Sequence[Any] | None = None, limit: int | None = None
    ) -> "QueryResult":
        """Answer a SELECT with up to `limit` rows.

        Args:
            sql: one statement, with `?` for each parameter.
            params: their values.
            limit: the most rows to return; the statement ends there.
        """
        return self._own.query(sql, params, limit)

    def stream(self, sql: str, params: Sequence[Any] | None = None) -> "ResultStream":
        """Answer a SELECT in Arrow batches: for more rows than memory holds."""
        return self._own.stream(sql, params)

    def execute(self, sql: str, *, repeatable: bool = False) -> None:
        """Run a statement that changes something; see `TrinoClient.execute`."""
        self._own.execute(sql, repeatable=repeatable)

    def client(self, catalog: str, secrets: "SecretStore") -> "TrinoClient":
        """Return a client of a catalog; nothing is asked yet.

        Raises:
            NotConfiguredError: no address is set.
        """
        from dataplatform.lake.place import NotConfiguredError
        from dataplatform.lake.trino.client import TrinoClient, TrinoServer

        if not self.url:
            raise NotConfiguredError(
                "Trino's address is not set. Remedy: `dp stack up` starts one, or set"
                " DATAPLATFORM_TRINO_URL."
            )
        server = TrinoServer(
            url=self.url,
            user=self.user,
            catalog=catalog,
            source=self.source,
            client_tags=(f"{_RUN_TAG}:{self._run_id}",) if self._run_id else (),
            ca_file=Path(self.ca_file) if self.ca_file else None,
            request_seconds=self.request_seconds,
            query_seconds=self.query_seconds,
            retry_seconds=self.retry_seconds,
        )
        return TrinoClient(server, lambda: self._login(secrets), _logged)

    @property
    def _own(self) -> "TrinoClient":
        if self._client is None:
            from dataplatform.resources.vault import open_secrets

            self._client = self.client(self.catalog, open_secrets(Settings()))
        return self._client

    def _login(self, secrets: "SecretStore") -> "Login":
        from trino.auth import BasicAuthentication, JWTAuthentication

        from dataplatform.lake.trino.client import Login

        if self.auth == "none":
            return Login()
        secret = secrets.read(SECRET)
        if self.auth == "jwt":
            return Login(JWTAuthentication(secret["token"]))
        user = secret["username"]
        return Login(BasicAuthentication(user, secret["password"]), user)


def _logged(progress: "Progress") -> None:
    get_dagster_logger().info("Trino: %s", progress)
