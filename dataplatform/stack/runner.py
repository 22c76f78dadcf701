"""The stack as a whole: brought up, looked at, taken down."""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal

import psutil
from filelock import FileLock, Timeout

from dataplatform.stack import bootstrap, readiness
from dataplatform.stack.configuration import write_configuration
from dataplatform.stack.given import set_up_given
from dataplatform.stack.install import INSTALLERS, install_trino_java
from dataplatform.stack.layout import (
    SERVERS,
    SETTING,
    Given,
    Layout,
    Plan,
    StackError,
    choose_ports,
    vault_logins,
    write_endpoints,
    write_private,
)
from dataplatform.stack.supervision import Supervisor, SupervisorError
from dataplatform.versions import (
    CATALOG_ICEBERG_VERSION,
    MINIO_VERSION,
    OPENBAO_VERSION,
    POSTGRES_VERSION,
    TRINO_SERVER_VERSION,
)

LOCK_SECONDS: Final = 30.0

State = Literal["running", "starting", "stopped", "dead", "given"]

WAIT_SECONDS: Final[dict[str, float]] = {
    "vault": 60,
    "postgres": 60,
    "minio": 60,
    "catalog": 90,
    # 14–20 s where nothing else runs, 57 s were seen on a busy machine.
    "trino": 240,
}

VERSIONS: Final[dict[str, str]] = {
    "vault": f"OpenBao {OPENBAO_VERSION}",
    "postgres": f"PostgreSQL {POSTGRES_VERSION}",
    "minio": f"MinIO {MINIO_VERSION.split('-')[1][:8]}",
    "catalog": f"Iceberg REST {CATALOG_ICEBERG_VERSION}",
    "trino": f"Trino {TRINO_SERVER_VERSION}",
}


@dataclass(frozen=True)
class ServerStatus:
    """How one server is.

    Attributes:
        name: vault, postgres, minio, catalog or trino.
        version: the software and its version; empty for a server of the user's.
        state: running (it answers), starting, stopped by `dp stack down`, dead, or given: the user's
            own, which answers.
        address: where it listens.
        pid: its process; None where none runs.
        memory: bytes that it and its children hold.
        since: when it started.
    """

    name: str
    version: str
    state: State
    address: str
    pid: int | None = None
    memory: int = 0
    since: datetime | None = None


Progress = Callable[[str, str], None]
"""Told of each step: which server, and what is done with it now."""


class Stack:
    """The servers of one home."""

    def __init__(self, home: Path, given: Given | None = None) -> None:
        """Describe the stack below `home`; nothing is started or read yet."""
        self.layout = Layout.below(home)
        self._given = given
        self._supervisor = Supervisor(self.layout)

    def up(self, progress: Progress, *, free_ports: bool = False) -> None:
        """Install, configure and start what does not run yet; ends when every server answers.

        Args:
            progress: told of each step.
            free_ports: take free ports rather than the servers' usual ones.

        Raises:
            StackError: a server can't be installed, started or set up.
            JarError: a file can't be fetched.
        """
        with self._locked():
            self.layout.root.mkdir(exist_ok=True)
            self.layout.root.chmod(0o700)  # `dp run` may have made it, open to all.
            self._supervisor.end_orphans()
            plan = self._decide(free=free_ports)
            before = dict(plan.homes)
            self._install(plan, progress)
            if self._supervisor.process and plan.homes != before:
                raise StackError(
                    "The versions of the servers changed while the stack runs."
                    " Remedy: dp stack down, then dp stack up."
                )
            self._configure(plan)
            self._start(plan, progress)
            plan.endpoints = self._endpoints(plan)
            plan.write(self.layout)
            write_endpoints(self.layout, plan.endpoints)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Keep other commands from changing the stack meanwhile."""
        self.layout.lock.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.layout.lock, timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise StackError(
                f"Another command changes this stack: {_holder(self.layout.lock_holder)}."
                " Remedy: wait until it ends, or end it."
            ) from None
        try:
            write_private(self.layout.lock_holder, str(os.getpid()))
            yield
        finally:
            lock.release()

    def install(self, progress: Progress) -> None:
        """Install the servers and start none: `up` has less to do then; errors as for `up`."""
        given = self._given or Given()
        ours = [name for name in SERVERS if not given.address(name)]
        self._install(Plan(given={name: "" for name in SERVERS if name not in ours}), progress)

    def _decide(self, *, free: bool) -> Plan:
        """Return the plan: the one in force while the supervisor runs, since its ports are taken."""
        before = Plan.read(self.layout)
        given = self._given or Given()
        addresses = {name: found for name in SERVERS if (found := given.address(name))}
        if self._supervisor.process:
            if before.given != addresses:
                raise StackError(
                    "The addresses in the settings changed while the stack runs."
                    " Remedy: dp stack down, then dp stack up."
                )
            return before
        return Plan(
            ports=choose_ports(before.ports, free=free),
            given=addresses,
            region=given.s3_region,
            logins=vault_logins(self.layout, given),
            vault_ca_file=given.vault_ca_file and given.vault_ca_file.resolve(),
        )

    def _install(self, plan: Plan, progress: Progress) -> None:
        """Install what is missing, all at once: MinIO is compiled while Trino is downloaded."""
        with ThreadPoolExecutor() as pool:
            homes = {
                server: pool.submit(INSTALLERS[server], partial(progress, server))
                for server in plan.ours
            }
            if "trino" in plan.ours:
                java = pool.submit(install_trino_java, partial(progress, "trino"))
                plan.trino_java = java.result()
            plan.homes = {server: home.result() for server, home in homes.items()}

    def _configure(self, plan: Plan) -> None:
        if "vault" in plan.ours and not self.layout.seal_key.exists():
            write_private(self.layout.seal_key, secrets.token_bytes(32))
        if not self._supervisor.process:
            write_configuration(self.layout, plan)
        plan.write(self.layout)
        self._supervisor.ensure()

    def _start(self, plan: Plan, progress: Progress) -> None:
        """Start the servers in their order, and set each up as soon as it answers.

        PostgreSQL and MinIO come before those that start with the secrets made for them.
        """
        for server in SERVERS:
            if server in plan.ours:
                self._start_one(server, plan, progress)
            elif server in bootstrap.SET_UP:
                progress(server, set_up_given(server, plan))

    def _start_one(self, server: str, plan: Plan, progress: Progress) -> None:
        if not self._ready(server, plan):
            progress(server, "starting")
        if server == "vault":
            self._start_vault(plan)
        elif server == "postgres":
            bootstrap.create_cluster(self.layout, plan)
        elif server == "catalog" and "trino" in plan.ours:
            self._supervisor.start("trino")  # It takes longest; the catalog starts beside it.
        self._bring_up(server, plan)
        if server in bootstrap.SET_UP:
            _set_up(server, plan)
        progress(server, "ready")

    def _start_vault(self, plan: Plan) -> None:
        address = plan.address("vault")
        self._supervisor.start("vault")
        self._wait("vault", lambda: self._holds("vault", plan) and bootstrap.is_listening(address))
        bootstrap.initialise_vault(self.layout, address)
        self._wait("vault", lambda: self._ready("vault", plan))
        bootstrap.bootstrap_vault(self.layout, plan)

    def _bring_up(self, server: str, plan: Plan) -> None:
        self._supervisor.start(server)
        self._wait(server, lambda: self._ready(server, plan))
        if server == "trino":
            self._wait(server, lambda: readiness.trino_queries(plan))

    def _ready(self, server: str, plan: Plan) -> bool:
        """Whether our server answers; another program may answer at its port, and be told secrets."""
        return self._holds(server, plan) and readiness.answers(server, plan)

    def _holds(self, server: str, plan: Plan) -> bool:
        known = self._supervisor.states().get(server, {})
        process = _process(known.get("pid"))
        running = known.get("statename") == "RUNNING" and process is not None
        return running and listens(process, plan.ports[server])

    def _wait(self, server: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS[server]
        while not ready():
            state = self._supervisor.states().get(server, {}).get("statename")
            if state == "FATAL" or time.monotonic() > deadline:
                raise StackError(
                    f"{server} does not come up ({state}):\n{log_tail(self.layout.log(server), 8)}\n"
                    f"Remedy: dp stack logs {server}; after a mend, dp stack up."
                )
            time.sleep(0.2)

    def _endpoints(self, plan: Plan) -> dict[str, str]:
        found = {SETTING[server]: plan.address(server) for server in SERVERS}
        found["s3_region"] = plan.region
        if "vault" in plan.ours:
            found["vault_auth"] = "approle"
            found["vault_role_id"] = "platform"
            found["vault_credential_file"] = str(self.layout.secret_id("platform"))
            found["vault_rotation_credential_file"] = str(self.layout.secret_id("rotation"))
        return found

    def status(self) -> list[ServerStatus]:
        """Return how each server is, in the order of their start."""
        plan = Plan.read(self.layout)
        if not plan.ports:
            return []
        states = self._supervisor.states()
        return [self._status(server, plan, states.get(server, {})) for server in SERVERS]

    def _status(self, server: str, plan: Plan, known: dict[str, object]) -> ServerStatus:
        address = plan.address(server)
        if server in plan.given:
            answers = readiness.answers(server, plan)
            return ServerStatus(server, "", "given" if answers else "dead", address)
        process = _process(known.get("pid"))
        # Nobody ended a stack whose addresses are still there: its supervisor was killed.
        ended = "" if self.layout.endpoints.exists() else "STOPPED"
        state = _state(str(known.get("statename", ended)), lambda: self._ready(server, plan))
        if process is None:
            return ServerStatus(server, VERSIONS[server], state, address)
        try:
            since = datetime.fromtimestamp(process.create_time(), UTC)
            memory = sum(map(_memory, (process, *process.children(recursive=True))))
        except psutil.NoSuchProcess:  # It died while it was looked at.
            return ServerStatus(server, VERSIONS[server], "dead", address)
        return ServerStatus(server, VERSIONS[server], state, address, process.pid, memory, since)

    def restart(self, server: str, progress: Progress) -> None:
        """End a server and start it again, with the secrets that Vault holds now.

        Raises:
            StackError: the stack doesn't run this server, or it doesn't come up.
        """
        with self._locked():
            plan = Plan.read(self.layout)
            if server not in self._supervisor.states():
                raise StackError(f"The stack runs no {server}. Remedy: dp stack up.")
            progress(server, "restarting")
            self._supervisor.stop(server)
            self._bring_up(server, plan)
            progress(server, "ready")

    def down(self, progress: Progress, *, purge: bool = False) -> None:
        """End every server, the last started first, and the supervisor.

        Args:
            progress: told of each step.
            purge: remove data, configuration, logs and secrets as well.

        Raises:
            StackError: something can't be removed.
        """
        with self._locked():
            try:
                self._stop_all(progress)
            except SupervisorError:
                progress("supervisor", "does not answer, is ended by a signal")
            self._supervisor.shutdown()
            self._supervisor.end_orphans()
            self.layout.endpoints.unlink(missing_ok=True)
            if purge:
                self._purge()

    def _stop_all(self, progress: Progress) -> None:
        running = self._supervisor.states()
        for server in reversed(SERVERS):
            if server in running:
                progress(server, "stopping")
                self._supervisor.stop(server)
                progress(server, "stopped")

    def _purge(self) -> None:
        try:
            shutil.rmtree(self.layout.root)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StackError(
                f"The stack is down, and {error.filename} could not be removed ({error.strerror})."
                f" Remedy: see who owns it, and remove {self.layout.root}."
            ) from error


def _set_up(server: str, plan: Plan) -> None:
    """Set a server up; what it says to that may repeat a secret, and is left to its log."""
    import psycopg2

    try:
        bootstrap.SET_UP[server](plan)
    except psycopg2.Error as error:
        raise StackError(
            f"{server} could not be set up ({type(error).__name__})."
            f" Remedy: dp stack logs {server}; after a mend, dp stack up."
        ) from error


def _state(supervised: str, answers: Callable[[], bool]) -> State:
    if supervised in ("RUNNING", "STARTING"):
        return "running" if answers() else "starting"
    if supervised == "STOPPED":
        return "stopped"
    return "starting" if supervised == "BACKOFF" else "dead"


def _process(pid: object) -> psutil.Process | None:
    if not isinstance(pid, int) or not pid:
        return None
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def listens(process: psutil.Process, port: int) -> bool:
    """Whether a process, or one of its children, takes connections at a port."""
    try:
        family = (process, *process.children(recursive=True))
        found = [one for member in family for one in member.net_connections("tcp")]
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found)


def _holder(file: Path) -> str:
    """Return who wrote its number into this file, in words."""
    text = file.read_text().strip() if file.exists() else ""
    process = _process(int(text)) if text.isdigit() else None
    if process is None:
        return "an unknown process"
    return f"process {process.pid} ({process.name()})"


def _memory(process: psutil.Process) -> int:
    """Return a process's share of memory: PostgreSQL's processes share pages, counted once here."""
    try:
        full = process.memory_full_info()
        return getattr(full, "pss", full.rss)
    except psutil.Error:
        return 0


def log_tail(path: Path, lines: int) -> str:
    """Return the last lines of a log; empty where there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def follow(path: Path, lines: int) -> Iterator[str]:
    """Yield the last lines of a log, then each new one; a rotated log is opened anew."""
    yield from log_tail(path, lines).splitlines()
    position = path.stat().st_size if path.exists() else 0
    while True:
        if path.exists() and path.stat().st_size != position:
            position = 0 if path.stat().st_size < position else position
            with path.open(errors="replace") as file:
                file.seek(position)
                yield from file.read().splitlines()
                position = file.tell()
        time.sleep(0.3)
