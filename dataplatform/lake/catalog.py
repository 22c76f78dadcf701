"""One description of an Iceberg catalog, from which each engine's configuration is rendered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from requests import Response, Session
from requests.adapters import HTTPAdapter

from dataplatform.lake.spec import CATALOG, NAMESPACE
from dataplatform.lake.store.object_store import S3Access

_SPARK: Final = f"spark.sql.catalog.{CATALOG}"
_SPARK_COMMON: Final = {
    _SPARK: "org.apache.iceberg.spark.SparkCatalog",
    # pyiceberg commits beside Spark: a cached table would be a stale one.
    f"{_SPARK}.cache-enabled": "false",
}
CONNECT_SECONDS: Final = 10
REQUEST_SECONDS: Final = 60
"""How long a request to the catalog or the store may take: more than any of them ever does."""


@dataclass(frozen=True)
class SqliteCatalog:
    """The embedded catalog: one SQLite file, tables in a folder.

    Args:
        file: the database.
        warehouse: the folder of the tables.
    """

    file: Path
    warehouse: Path

    def open(self) -> Catalog:
        """Open (and make) the catalog as pyiceberg sees it.

        The catalog's name is part of each row of its tables, so Spark must use the same one.
        """
        self.warehouse.mkdir(parents=True, exist_ok=True)
        catalog = SqlCatalog(CATALOG, uri=f"sqlite:///{self.file}", warehouse=self._location)
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return catalog

    def spark_conf(self) -> dict[str, str]:
        """Return the Spark settings of the same catalog."""
        return _SPARK_COMMON | {
            f"{_SPARK}.type": "jdbc",
            f"{_SPARK}.uri": f"jdbc:sqlite:{self.file}",
            f"{_SPARK}.jdbc.schema-version": "V1",
            f"{_SPARK}.warehouse": self._location,
        }

    @property
    def _location(self) -> str:
        """The folder as Iceberg names it.

        Not `Path.as_uri()`: pyiceberg, Hadoop and DuckDB all take what follows `file://` as it
        stands, so an encoded blank would be a folder named `%20` somewhere else.
        """
        return f"file://{self.warehouse}"


_IN_TRINO: Final = {
    "token": "oauth2.token",
    "credential": "oauth2.credential",
    "oauth2-server-uri": "oauth2.server-uri",
    "scope": "oauth2.scope",
}
CATALOG_LOGIN: Final = tuple(_IN_TRINO)
"""What a login to a catalog may consist of."""


class _PatientCatalog(RestCatalog):
    """pyiceberg's client (0.12) waits for ever; this one as long as the engines do."""

    def _create_session(self) -> Session:
        session = super()._create_session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _TimeLimit())
        return session


class _TimeLimit(HTTPAdapter):
    def send(self, *args: Any, **options: Any) -> Response:
        """Send a request with a time limit, where none is set."""
        options["timeout"] = options.get("timeout") or (CONNECT_SECONDS, REQUEST_SECONDS)
        return super().send(*args, **options)


@dataclass(frozen=True)
class RestCatalogServer:
    """A catalog behind Iceberg's REST protocol, tables in an S3 bucket.

    Args:
        uri: its address, such as `http://127.0.0.1:8181/live`.
        bucket: the bucket of the tables.
        access: how the bucket is reached.
        login: OAuth2 as Iceberg's clients name it: `token`, or `credential` with `oauth2-server-uri`
            and `scope`; empty where the catalog asks for none.
    """

    uri: str
    bucket: str
    access: S3Access
    login: Mapping[str, str] = field(default_factory=dict, repr=False)

    def open(self) -> Catalog:
        """Open the catalog as pyiceberg sees it.

        Raises:
            requests.ConnectionError: the server can't be reached.
        """
        catalog = _PatientCatalog(CATALOG, **self._pyiceberg())
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return catalog

    def spark_conf(self) -> dict[str, str]:
        """Return the Spark settings of the same catalog, and of reading raw files beside it."""
        access = self.access
        of_catalog = {
            "type": "rest",
            "uri": self.uri,
            "warehouse": f"s3://{self.bucket}",
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "client.region": access.region,
            "s3.endpoint": access.endpoint,
            "s3.path-style-access": str(access.path_style).lower(),
            "s3.access-key-id": access.access_key,
            "s3.secret-access-key": access.secret_key,
            "rest.client.connection-timeout-ms": str(CONNECT_SECONDS * 1000),
            "rest.client.socket-timeout-ms": str(REQUEST_SECONDS * 1000),
            **self.login,
        }
        return _SPARK_COMMON | {f"{_SPARK}.{k}": v for k, v in of_catalog.items()} | _s3a(access)

    def trino_properties(self) -> Mapping[str, str]:
        """Return the properties of a Trino catalog over the same tables.

        Trino keeps them in a file: give an `access` whose keys are references to Trino's environment,
        such as `${ENV:S3_SECRET_KEY}`.
        """
        return {
            "connector.name": "iceberg",
            "iceberg.catalog.type": "rest",
            "iceberg.rest-catalog.uri": self.uri,
            "iceberg.rest-catalog.warehouse": f"s3://{self.bucket}",
            "fs.native-s3.enabled": "true",
            "s3.endpoint": self.access.endpoint,
            "s3.region": self.access.region,
            "s3.path-style-access": str(self.access.path_style).lower(),
            "s3.aws-access-key": self.access.access_key,
            "s3.aws-secret-key": self.access.secret_key,
            **({"iceberg.rest-catalog.security": "OAUTH2"} if self.login else {}),
            **{f"iceberg.rest-catalog.{_IN_TRINO[k]}": v for k, v in self.login.items()},
        }

    def _pyiceberg(self) -> dict[str, Any]:
        place = {"uri": self.uri, "warehouse": f"s3://{self.bucket}"}
        return place | file_io(self.access) | dict(self.login)


def file_io(access: S3Access) -> dict[str, Any]:
    """Return the properties by which pyiceberg reads and writes files in an S3 store."""
    return {
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        "s3.endpoint": access.endpoint,
        "s3.region": access.region,
        "s3.access-key-id": access.access_key,
        "s3.secret-access-key": access.secret_key,
        "s3.connect-timeout": float(CONNECT_SECONDS),
        "s3.request-timeout": float(REQUEST_SECONDS),
        # pyarrow's S3 takes the path style unless told otherwise.
        "s3.force-virtual-addressing": not access.path_style,
    }


CatalogServer = SqliteCatalog | RestCatalogServer


def _s3a(access: S3Access) -> dict[str, str]:
    """Return what Hadoop needs to read raw files; a session's settings reach its Hadoop ones."""
    return {
        "fs.s3a.endpoint": access.endpoint,
        "fs.s3a.endpoint.region": access.region,
        "fs.s3a.path.style.access": str(access.path_style).lower(),
        "fs.s3a.connection.ssl.enabled": str(access.endpoint.startswith("https")).lower(),
        "fs.s3a.access.key": access.access_key,
        "fs.s3a.secret.key": access.secret_key,
        "fs.s3a.aws.credentials.provider": (
            "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"
        ),
        "fs.s3a.change.detection.mode": "none",
    }
