"""One description of a catalog, rendered for pyiceberg, Spark and Trino."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import requests

from dataplatform.lake import catalog
from dataplatform.lake.catalog import RestCatalogServer
from dataplatform.lake.store.s3 import S3Access

ACCESS = S3Access("http://127.0.0.1:9000", "us-east-1", "key", "hidden-key")
LOGIN = {"credential": "me:hidden-login", "oauth2-server-uri": "https://id.example.org/token"}


def described(uri: str = "http://127.0.0.1:8181/live") -> RestCatalogServer:
    return RestCatalogServer(uri, "warehouse", ACCESS, LOGIN)


def test_a_login_reaches_each_engine_and_no_repr() -> None:
    spark, trino = described().spark_conf(), described().trino_properties()
    assert spark["spark.sql.catalog.lake.credential"] == LOGIN["credential"]
    assert spark["spark.sql.catalog.lake.oauth2-server-uri"] == LOGIN["oauth2-server-uri"]
    assert trino["iceberg.rest-catalog.security"] == "OAUTH2"
    assert trino["iceberg.rest-catalog.oauth2.credential"] == LOGIN["credential"]
    assert trino["iceberg.rest-catalog.oauth2.server-uri"] == LOGIN["oauth2-server-uri"]
    assert "hidden" not in repr(described())


def test_without_a_login_none_is_asked_for() -> None:
    server = RestCatalogServer("http://127.0.0.1:8181/live", "warehouse", ACCESS)
    assert not [name for name in server.trino_properties() if "security" in name]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        taken: list[socket.socket] = []
        thread = threading.Thread(target=lambda: taken.append(listening.accept()[0]), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for connection in taken:
            connection.close()


def test_a_silent_catalog_is_not_waited_for_for_ever(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "REQUEST_SECONDS", 0.2)
    server = RestCatalogServer(silent, "warehouse", ACCESS)
    with pytest.raises(requests.ReadTimeout):
        server.open()
