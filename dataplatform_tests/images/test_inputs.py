"""The tag: the same for the same content, another one for any other."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplatform.images import inputs
from dataplatform.images.errors import ImageError

ROOT = Path(__file__).parents[2]
BASE = "registry.example.org/python:3.11@sha256:" + "0" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small checkout."""
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    for name in ("pyproject.toml", "dataplatform/a.py", "infra/images/spark/Dockerfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def tag(root: Path, base: str = BASE) -> str:
    [image] = inputs.images(root, base, ["spark"])
    return image.tag


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "dataplatform/a.py").write_text("changed"),
        lambda root: (root / "dataplatform/a.py").rename(root / "dataplatform/b.py"),
        lambda root: (root / "dataplatform/new.sql").touch(),
        lambda root: (root / "infra/images/spark/Dockerfile").chmod(0o755),
        lambda root: (root / "dagster.cluster.yaml").touch(),
    ],
    ids=["content", "name", "new file", "executable", "configuration"],
)
def test_what_goes_into_an_image_changes_its_tag(
    root: Path, change: Callable[[Path], object]
) -> None:
    before = tag(root)
    change(root)
    assert tag(root) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: os.utime(root / "pyproject.toml", (0, 0)),
        lambda root: (root / "dataplatform/a.py").chmod(0o600),
        lambda root: (root / ".env").write_text("DATAPLATFORM_COINGECKO_API_KEY=secret"),
        lambda root: (root / "docs").mkdir(),
    ],
    ids=["age", "who may read it", "secrets", "documentation"],
)
def test_what_does_not_leaves_it(root: Path, change: Callable[[Path], object]) -> None:
    before = tag(root)
    change(root)
    cached = root / "dataplatform/__pycache__/a.pyc"
    cached.parent.mkdir()
    cached.touch()
    assert tag(root) == before
    seen = {str(file.relative_to(root)) for file in inputs.context_files(root)}
    assert seen == {"pyproject.toml", "dataplatform/a.py", "infra/images/spark/Dockerfile"}


def test_another_base_is_another_image(root: Path) -> None:
    assert tag(root, BASE) != tag(root, BASE.replace("0", "1"))


def test_both_images_of_a_checkout_have_one_tag() -> None:
    dagster, spark = inputs.images(ROOT, BASE)
    assert dagster.tag == spark.tag
    assert dagster.at("node:30500/") == f"node:30500/dataplatform-dagster:{dagster.tag}"
    assert spark.local == f"localhost/dataplatform-spark:{spark.tag}"


def test_an_unknown_image_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ImageError, match=r"No image nosuch\. Remedy: name dagster or spark"):
        inputs.images(ROOT, BASE, ["spark", "nosuch"])


def test_no_secret_of_the_checkout_is_in_the_context() -> None:
    names = {str(file.relative_to(ROOT)) for file in inputs.context_files(ROOT)}
    assert {"constraints.txt", "pyproject.toml", "dataplatform/definitions.py"} <= names
    top = {name.partition("/")[0] for name in names}
    assert top.isdisjoint({".env", ".git", ".dataplatform", ".venv", "dataplatform_tests", "docs"})
