"""Processes of the stack spend one budget of API calls, which is in PostgreSQL and in no file."""

import subprocess
import sys
import time

import pytest

from dataplatform_tests.coingecko_market import Market
from dataplatform_tests.coingecko_server import CoinGeckoServer
from dataplatform_tests.stack.fixtures import RunningStack

pytestmark = pytest.mark.stack

RUN = """
from dataplatform.profiles import Settings
from dataplatform.resources.coingecko import CoinGeckoResource
api = CoinGeckoResource.from_settings(Settings())
for _ in range(3):
    api.fetch("/ping")
print(api.budget().calls_this_month)
"""


def test_two_runs_share_one_budget(stack: RunningStack) -> None:
    with CoinGeckoServer(Market(coins=40)) as api:
        env = stack.env | {
            "DATAPLATFORM_COINGECKO_BASE_URL": api.url,
            "DATAPLATFORM_COINGECKO_CALLS_PER_MINUTE": "60",
        }
        began = time.monotonic()
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", RUN], env=env, cwd=stack.home, stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        said = sorted(int(run.communicate(timeout=120)[0]) for run in runs)
    assert time.monotonic() - began >= 5
    assert said[-1] == len(api.seen) == 6
    assert list(stack.home.rglob("ratelimit.sqlite")) == []
