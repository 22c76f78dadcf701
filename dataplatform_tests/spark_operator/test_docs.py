"""The page for strangers: its code runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, Definitions

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.states import Deadlines

PAGE = (Path(__file__).parents[2] / "docs/spark-operator.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGE, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_the_definitions_of_the_page_load() -> None:
    [code] = [block for block in blocks("python") if "defs = Definitions(" in block]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102

    Definitions.validate_loadable(names["defs"])
    assert names["defs"].resolve_asset_graph().has(AssetKey("counted"))


def test_the_driver_of_the_page_is_python() -> None:
    [code] = [block for block in blocks("python") if "SparkSession" in block]

    compile(code, "main.py", "exec")


def concrete(kind: type[Exception]) -> list[str]:
    return [kind.__name__, *(name for sub in kind.__subclasses__() for name in concrete(sub))]


TABLE = PAGE.partition("\n## Failures")[2].partition("\n## ")[0]
GROUPS = {"SparkOperatorError", "KubernetesApiError"}


def test_the_table_has_each_error_and_no_other() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("|")]

    named = set(re.findall(r"`(\w+Error)`", "\n".join(rows)))
    assert named == set(concrete(errors.SparkOperatorError)) - GROUPS


@pytest.mark.parametrize("name", sorted(set(concrete(errors.SparkOperatorError)) - GROUPS))
def test_each_error_is_provoked_on_a_node(name: str) -> None:
    files = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    on_a_node = [text for text in files if "\npytestmark = pytest.mark.kubernetes\n" in text]

    assert any(f"errors.{name}" in text for text in on_a_node)


def test_the_deadlines_of_the_table_exist() -> None:
    named = set(re.findall(r"after `(\w+)` s", PAGE))

    assert named
    assert named <= set(Deadlines.model_fields)


def test_the_role_names_each_right_once() -> None:
    [role] = [yaml.safe_load(block) for block in blocks("yaml")]

    resources = [each for rule in role["rules"] for each in rule["resources"]]
    assert sorted(resources) == ["events", "pods", "pods/log", "pods/proxy", "sparkapplications"]
