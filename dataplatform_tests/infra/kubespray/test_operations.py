"""Which playbooks make up a command."""

from pathlib import Path

import pytest

from infra.kubespray import operations
from infra.kubespray.errors import InventoryError
from infra.spec.model import load_spec

SOURCE = Path("kubespray")


def test_installing_prepares_the_machines_first() -> None:
    named = [(name, playbook.path.name) for name, playbook in operations.install(SOURCE)]
    assert named == [("prerequisites", "prerequisites.yml"), ("install", "cluster.yml")]


def test_a_worker_is_added_without_touching_the_others() -> None:
    steps = list(operations.scale(SOURCE, load_spec(), ["dp-worker-7"]))
    limits = {playbook.path.name: playbook.limit for _, playbook in steps}
    # Kubespray refuses a limit without facts of the machines that it leaves out.
    assert limits == {
        "prerequisites.yml": ("dp-worker-7",),
        "facts.yml": (),
        "scale.yml": ("dp-worker-7",),
    }
    assert list(limits)[-1] == "scale.yml"


def test_all_workers_are_gone_through_where_none_is_named() -> None:
    steps = dict(operations.scale(SOURCE, load_spec()))
    assert list(steps) == ["prerequisites", "scale"]
    assert not steps["scale"].limit


def test_upgrades_go_by_as_many_workers_as_said() -> None:
    assert dict(operations.upgrade(SOURCE, 2))["upgrade"].extra_vars == {"serial": 2}
    assert dict(operations.upgrade(SOURCE))["upgrade"].extra_vars == {}


def test_a_lost_worker_is_taken_out_without_being_asked() -> None:
    here = dict(operations.remove_node(SOURCE, load_spec(), "dp-worker-2"))["remove-node"]
    lost = dict(operations.remove_node(SOURCE, load_spec(), "dp-worker-2", lost=True))[
        "remove-node"
    ]
    assert here.extra_vars == {"node": "dp-worker-2", "skip_confirmation": True}
    assert lost.extra_vars["reset_nodes"] is False
    assert lost.extra_vars["allow_ungraceful_removal"] is True


@pytest.mark.parametrize(
    ("node", "cause"),
    [
        ("dp-master-1", "control plane.*Remedy: see docs/kubespray.md#the-control-plane"),
        ("dp-worker-8", "no machine of the specification"),
        ("all", "no machine of the specification"),
    ],
)
def test_only_a_worker_of_the_specification_is_taken_out(node: str, cause: str) -> None:
    with pytest.raises(InventoryError, match=cause):
        list(operations.remove_node(SOURCE, load_spec(), node))


def test_the_last_worker_stays() -> None:
    spec = load_spec(profile="small")
    content = spec.model_dump(mode="json")
    content["pools"]["workers"]["count"] = 1
    with pytest.raises(InventoryError, match="last worker"):
        list(operations.remove_node(SOURCE, type(spec).model_validate(content), "dp-worker-1"))


def test_the_page_has_the_section_that_an_error_names() -> None:
    page = Path(__file__).parents[3] / "docs/kubespray.md"
    assert "\n## The control plane\n" in page.read_text(encoding="utf-8")
