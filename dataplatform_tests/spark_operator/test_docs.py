"""The page for strangers: its code runs as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from dagster import AssetKey, Definitions

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.spec import SparkApplication
from dataplatform.resources.spark_operator.states import Deadlines

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/spark-operator.md").read_text()
KINDS = ("namespace", "service-account")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGE, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_the_definitions_of_the_page_load() -> None:
    [code] = [block for block in blocks("python") if "defs = Definitions(" in block]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102

    Definitions.validate_loadable(names["defs"])
    assert names["defs"].resolve_asset_graph().has(AssetKey("counted"))


def test_a_copy_of_the_folder_works_under_another_name(tmp_path: Path) -> None:
    source = REPOSITORY / "dataplatform/resources/spark_operator"
    shutil.copytree(source, tmp_path / "ours/operator_of_spark")
    modules = [f"ours.operator_of_spark.{path.stem}" for path in source.glob("[a-z]*.py")]
    script = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
print([name for name in sys.modules if name.startswith("dataplatform")])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("code", blocks("python"))
def test_what_the_page_shows_is_python(code: str) -> None:
    # In a function: one of them yields.
    compile("def page():\n" + indent(code, "    "), "page.py", "exec")


def application_of_the_page() -> SparkApplication:
    """Return what the example submits."""
    [code] = [block for block in blocks("python") if "defs = Definitions(" in block]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    submitted = Mock()
    names["counted"].op.compute_fn.decorated_fn(Mock(), submitted)
    return submitted.pipes_client().run.call_args.kwargs["application"]


def test_what_the_example_names_is_made_by_the_steps_before_it() -> None:
    driver = application_of_the_page().driver
    shell = blocks("sh")[0]
    folder = REPOSITORY / "infra/kubernetes/spark"
    made = [yaml.safe_load((folder / f"{kind}.yaml").read_text()) for kind in KINDS]

    assert "kubectl apply -k infra/kubernetes/spark\n" in shell
    assert [each["metadata"]["name"] for each in made] == ["spark", driver.service_account]
    secrets = {each.name for each in driver.secret_env.values()}
    assert secrets == set(re.findall(r"-n spark create secret generic (\S+)", shell))
    assert all(f"`{each.key}=…`" in PAGE for each in driver.secret_env.values())


def cleaned_up(seen: str) -> str:
    """Return what the table of failures says of the rows that begin so."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {seen}")]
    return row.split(" | ")[2]


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ("quota has no room for the application", "nothing was submitted"),
        ("quota has no room for the driver", "stays until its time to live"),
        ("quota has no room for any executor", "deleted"),
        ("webhook or policy denies the application", "nothing was submitted"),
        ("webhook or policy denies the driver", "stays until its time to live"),
    ],
)
def test_the_table_says_what_test_pipes_shows(seen: str, says: str) -> None:
    assert cleaned_up(seen).startswith(says)


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
    [block] = blocks("yaml")
    role, binding = yaml.safe_load_all(block)

    resources = [each for rule in role["rules"] for each in rule["resources"]]
    assert sorted(resources) == ["events", "pods", "pods/log", "pods/proxy", "sparkapplications"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
