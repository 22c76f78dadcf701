"""What a step needs of a pod: read where each step has a pod of its own, ignored elsewhere."""

from collections.abc import Mapping
from typing import Any, Final

TAG: Final = "dagster-k8s/config"


def pod_tags(cpu: str, memory: str) -> Mapping[str, Any]:
    """Return the tags of an op that size its pod.

    Args:
        cpu: what is reserved, such as `250m`; more is taken while the node has it.
        memory: what is reserved, and the limit: a pod that is killed for lack of it is not the one
            that took too much, where limits are above requests.
    """
    sizes = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}
    return {TAG: {"container_config": {"resources": sizes}}}
