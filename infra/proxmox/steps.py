"""What a plan is made of: steps, the changes that they show, the calls that they make."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Operation = Literal[
    "network", "image", "destroy", "create", "update", "grow", "start", "restart", "firewall"
]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Frozen):
    """One value that changes.

    Attributes:
        key: what it is.
        before: what it was; empty: there was none.
        after: what it becomes; empty: it is taken away.
        later: whether it takes effect only at the machine's next start.
    """

    key: str
    before: str = ""
    after: str = ""
    later: bool = False


class Call(_Frozen):
    """One call of Proxmox's API.

    Attributes:
        method: POST, PUT or DELETE.
        path: below /api2/json.
        parameters: of the call.
        task: Proxmox's name of the task that it starts; empty: it acts at once.
        of: what that task works on.
    """

    method: Literal["POST", "PUT", "DELETE"]
    path: str
    parameters: dict[str, str] = {}
    task: str = ""
    of: str = ""


class Step(_Frozen):
    """One thing to do.

    Attributes:
        operation: what is done.
        target: to what: a machine's name, or that of a part of the host.
        summary: in a few words.
        changes: what it changes.
        calls: how.
        vmid: of the machine, where it is one.
    """

    operation: Operation
    target: str
    summary: str = ""
    changes: tuple[Change, ...] = ()
    calls: tuple[Call, ...] = ()
    vmid: int | None = None
