from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplatform.lake.api.budget import SharedBudget
from dataplatform.lake.api.budget_store import SqliteStore
from dataplatform.lake.api.client import ApiClient, Patience
from dataplatform.lake.manifest import RawZone
from dataplatform.lake.store.object_store import open_bucket, open_folder
from dataplatform_tests.coingecko_market import Market
from dataplatform_tests.coingecko_server import CoinGeckoServer
from dataplatform_tests.minio.conftest import minio_server, new_bucket

__all__ = ["minio_server"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("API_KEY", "TIER", "BASE_URL", "CALLS_PER_MINUTE"):
        monkeypatch.delenv(f"DATAPLATFORM_COINGECKO_{name}", raising=False)
    # No `.env` of the developer's either.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["folder", pytest.param("minio", marks=pytest.mark.stack)])
def zone(request: pytest.FixtureRequest, tmp_path: Path) -> RawZone:
    """An empty raw zone: the same holds in a folder and in MinIO."""
    if request.param == "folder":
        return RawZone(open_folder(tmp_path / "datalake"))
    access = request.getfixturevalue("minio_server")
    return RawZone(open_bucket(access, new_bucket(access)))


@pytest.fixture
def folder_zone(tmp_path: Path) -> RawZone:
    """For what is true of folders only."""
    return RawZone(open_folder(tmp_path / "datalake"))


@pytest.fixture
def server() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer(Market(coins=40)) as running:
        yield running
        assert running.violations == []


class Waits(list[float]):
    """The waits that were asked for, instead of waiting."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client(server: CoinGeckoServer, tmp_path: Path, waits: Waits) -> Iterator[ApiClient]:
    budget = SharedBudget(SqliteStore(tmp_path / "ratelimit.sqlite"), "test", per_minute=600_000)
    patience = Patience(connect=2, read=0.5, whole=1.0, total=100, attempts=4)
    made = ApiClient(server.url, budget, {}, patience, sleep=waits)
    yield made
    made.close()
