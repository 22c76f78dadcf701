"""`dp infra inventory` and `dp infra kubernetes`: the machines become a cluster, by Kubespray."""

import functools
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, TypeVar

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, user_errors
from dataplatform.cli.infra import Profile, SpecFile, Yes

if TYPE_CHECKING:
    from infra.kubespray.operations import Named
    from infra.kubespray.runner import Runner
    from infra.spec.model import ClusterSpec

app: Final = typer.Typer(
    name="kubernetes",
    help="Kubernetes on the machines, by Kubespray.",
    no_args_is_help=True,
)
_P = ParamSpec("_P")
_R = TypeVar("_R")

Direct = Annotated[
    bool, typer.Option("--direct", help="From within the machines' network, not through the host.")
]


def add_commands(infra: typer.Typer) -> None:
    """Add the commands to the group `infra`."""
    infra.command("inventory")(inventory)
    infra.add_typer(app, name="kubernetes")


def _errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what went wrong end as one message, with the exit code of its kind."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from rich.markup import escape

        try:
            from infra.kubespray.errors import KubesprayError
            from infra.spec.errors import SpecError
        except ModuleNotFoundError as error:
            raise UserError(
                "infra/ is not there: the package was installed without its repository."
                " Remedy: run dp from a checkout."
            ) from error

        try:
            return command(*args, **kwargs)
        except SpecError as error:
            console.fail(str(error))
        except KubesprayError as error:
            console.err().print(f"[bold red]Error:[/] {escape(str(error))}")
            raise typer.Exit(error.exit_code) from error

    return user_errors(_guarded)


@_errors
def inventory(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where it is written.")
    ] = None,
    direct: Direct = False,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
) -> None:
    """Write Kubespray's inventory; `dp infra kubernetes` does so itself."""
    from infra.kubespray.inventory import state_folder

    wanted = _spec(spec_file, profile)
    folder = output or state_folder(wanted.name) / "inventory"
    for name in _write(wanted, folder, direct=direct):
        console.out().print(str(folder / name), soft_wrap=True)


@app.command("check")
@_errors
def check(
    direct: Direct = False, spec_file: SpecFile = None, profile: Profile = "reference"
) -> None:
    """Have Kubespray check the inventory; reaches no machine and changes nothing."""
    from infra.kubespray import operations

    runner = _runner(_spec(spec_file, profile), direct=direct)
    _run(runner, operations.check(runner.source))


@app.command("install")
@_errors
def install(
    direct: Direct = False, spec_file: SpecFile = None, profile: Profile = "reference"
) -> None:
    """Make the machines a cluster; run again, bring it to the specification."""
    from infra.kubespray import operations

    runner = _runner(_spec(spec_file, profile), direct=direct)
    _run(runner, operations.install(runner.source))
    console.err().print("Next: dp infra kubernetes kubeconfig, then dp tunnel up.")


@app.command("scale")
@_errors
def scale(
    nodes: Annotated[
        list[str] | None, typer.Argument(help="The new workers; else all are gone through.")
    ] = None,
    direct: Direct = False,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
) -> None:
    """Add workers, which the specification and `dp infra apply` have made, to the cluster."""
    from infra.kubespray import operations

    wanted = _spec(spec_file, profile)
    runner = _runner(wanted, direct=direct)
    _run(runner, operations.scale(runner.source, wanted, nodes or ()))


@app.command("upgrade")
@_errors
def upgrade(
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", min=1, help="Workers upgraded at once; a fifth of them."),
    ] = None,
    direct: Direct = False,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
) -> None:
    """Bring Kubernetes to the specification's version, each machine drained before."""
    from infra.kubespray import operations

    runner = _runner(_spec(spec_file, profile), direct=direct)
    _run(runner, operations.upgrade(runner.source, at_once))


@app.command("remove-node")
@_errors
def remove_node(
    node: Annotated[str, typer.Argument(help="The worker.")],
    lost: Annotated[
        bool, typer.Option("--lost", help="It does not answer any more; its pods are given up.")
    ] = False,
    yes: Yes = False,
    direct: Direct = False,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
) -> None:
    """Drain a worker and take it out of the cluster; `dp infra apply` then removes the machine."""
    from infra.kubespray import operations

    wanted = _spec(spec_file, profile)
    runner = _runner(wanted, direct=direct)
    steps = list(operations.remove_node(runner.source, wanted, node, lost=lost))
    _confirm(f"Take {node} out of {wanted.name}? What is on its local volumes is lost.", yes=yes)
    _run(runner, steps)


@app.command("reset")
@_errors
def reset(
    allow_destroy: Annotated[
        str, typer.Option("--allow-destroy", metavar="NAME", help="The cluster's name.")
    ],
    direct: Direct = False,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
) -> None:
    """Take Kubernetes off the machines, with ALL that the cluster holds; the machines stay."""
    from infra.kubespray import operations
    from infra.kubespray.errors import KubesprayError

    wanted = _spec(spec_file, profile)
    if allow_destroy != wanted.name:
        raise KubesprayError(
            f"{allow_destroy} is not the cluster of this specification",
            f"--allow-destroy {wanted.name}, if all that it holds may go",
        )
    runner = _runner(wanted, direct=direct)
    _run(runner, operations.reset(runner.source))


@app.command("kubeconfig")
@_errors
def kubeconfig(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="KUBECONFIG, or ~/.kube/config."),
    ] = None,
    use: Annotated[bool, typer.Option("--use", help="Make it the current context.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Even where another cluster has the name.")
    ] = False,
    direct: Direct = False,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
) -> None:
    """Fetch the administrator's kubeconfig and merge it into the file that kubectl reads."""
    from infra.kubespray import kubeconfig as kube

    wanted = _spec(spec_file, profile)
    server = kube.server_address(wanted, direct=direct)
    path = output or kube.default_path()
    runner = _runner(wanted, direct=direct)
    with console.err().status("fetching the kubeconfig"):
        fetched = kube.fetch_kubeconfig(runner)
    new = kube.renamed(fetched, wanted.name, server)
    kube.merge_kubeconfig(path, new, use=use, replace=replace)
    way = "" if direct else " (through dp tunnel up)"
    console.out().print(f"{path}: context {wanted.name}, {server}{way}", soft_wrap=True)


def _spec(path: Path | None, profile: str) -> "ClusterSpec":
    from infra.spec.model import REFERENCE, load_spec

    return load_spec(path or REFERENCE, profile)


def _write(spec: "ClusterSpec", folder: Path, *, direct: bool) -> tuple[str, ...]:
    """Write the inventory; warn of machines that it no longer has."""
    from infra.kubespray.inventory import inventory_files, write_inventory

    files = inventory_files(spec, direct=direct)
    gone = write_inventory(folder, files)
    if gone:
        text = f"No longer in the inventory: {', '.join(gone)}. If Kubernetes still has them:"
        console.err().print(f"{text} kubectl delete node NAME.", style="yellow", markup=False)
    return tuple(files)


def _runner(spec: "ClusterSpec", *, direct: bool) -> "Runner":
    """Return what runs playbooks against the cluster, its inventory written."""
    from infra.kubespray.environment import ansible_environment
    from infra.kubespray.inventory import state_folder
    from infra.kubespray.runner import Runner
    from infra.kubespray.source import check_version, fetch_source

    state = state_folder(spec.name)
    with console.err().status("preparing Kubespray") as status:
        tell = functools.partial(_tell, status.update)
        source = fetch_source(tell)
        check_version(source, spec.kubernetes.version)
        environment = ansible_environment(tell)
    _write(spec, state / "inventory", direct=direct)
    return Runner(environment, source, state, _private_key(spec))


def _tell(update: Callable[[str], None], text: str) -> None:
    update(text)
    if not console.err().is_terminal:
        console.err().print(text, markup=False)


def _private_key(spec: "ClusterSpec") -> Path | None:
    """Return the private half of a key that gets in; None where only the agent may have it."""
    named = (Path(file).expanduser() for file in spec.ssh.public_key_files)
    halves = (file.with_suffix("") for file in named if file.suffix == ".pub")
    return next((half for half in halves if half.is_file()), None)


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _run(runner: "Runner", steps: "Iterable[Named]") -> None:
    """Run playbooks one after the other, shown on the screen."""
    import dataclasses

    from dataplatform.cli.playbook_progress import PlaybookView

    # Started in the background by a shell, Python ignores Ctrl-C, and Ansible would too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    view = PlaybookView(console.err())
    shown = dataclasses.replace(runner, told=view.on_event)
    for name, playbook in steps:
        with view.playbook(name):
            log = shown.run(playbook, name)
        console.err().print(f"  log: {log}", style="dim", markup=False)
