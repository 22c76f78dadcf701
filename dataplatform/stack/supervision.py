"""The process that watches over the servers: supervisor, spoken to over its Unix socket."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Final
from xmlrpc.client import Fault, ServerProxy

import psutil

from dataplatform.stack.layout import Layout, StackError

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 90.0
_ORPHAN_SECONDS: Final = 20.0
_WITHOUT_WAITING: Final = False

_MARK: Final = "DATAPLATFORM_STACK"
"""The variable that tells the processes of a stack from all others: it names the stack's folder."""

_INHERITED: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH"),
    *("JAVA_HOME", "XDG_CACHE_HOME", "LD_LIBRARY_PATH"),
)
"""What servers get from the shell of `dp stack up`: no key that happens to be in it."""


class SupervisorError(StackError):
    """The supervisor runs and doesn't answer."""


class Supervisor:
    """One stack's supervisor."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @property
    def process(self) -> psutil.Process | None:
        """The running supervisor of this stack; None where there is none."""
        path = self._layout.supervisor_pid
        if not path.exists():
            return None
        try:
            found = psutil.Process(int(path.read_text()))
            ours = str(self._layout.supervisor_config) in found.cmdline()
        except (psutil.Error, ValueError):
            return None
        return found if ours and found.status() != psutil.STATUS_ZOMBIE else None

    def ensure(self) -> None:
        """Start the supervisor unless it runs; it starts no server by itself.

        Raises:
            StackError: it doesn't come up.
        """
        if self.process:
            return
        config = str(self._layout.supervisor_config)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", config]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment[_MARK] = str(self._layout.root)
        run = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, check=False
        )
        deadline = time.monotonic() + _START_SECONDS
        while run.returncode == 0 and time.monotonic() < deadline:
            if self.process and self._answers():
                return
            time.sleep(0.05)
        raise StackError(
            f"The supervisor did not start: {(run.stderr or run.stdout).strip() or 'no answer'}."
            f" Remedy: see {self._layout.log('supervisor')}."
        )

    def end_orphans(self) -> None:
        """End the servers that a killed supervisor left behind: nobody watches over them."""
        if self.process:
            return
        found = [one for one in psutil.process_iter() if self._is_ours(one)]
        for process in found:
            process.terminate()
        _, alive = psutil.wait_procs(found, timeout=_ORPHAN_SECONDS)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=_ORPHAN_SECONDS)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == str(self._layout.root)
        except (psutil.Error, OSError):
            return False

    def states(self) -> dict[str, dict[str, Any]]:
        """Return what supervisor knows of each server: its state, pid and time of start.

        Raises:
            SupervisorError: it doesn't answer.
        """
        if not self.process:
            return {}
        return {one["name"]: one for one in self._call("getAllProcessInfo")}

    def _answers(self) -> bool:
        try:
            self.states()
        except SupervisorError:
            return False
        return True

    def start(self, server: str) -> None:
        """Start a server unless it runs or is being started."""
        if self.states().get(server, {}).get("statename") not in ("RUNNING", "STARTING", "BACKOFF"):
            self._call("startProcess", server, _WITHOUT_WAITING)

    def stop(self, server: str) -> None:
        """End a server and wait until it has ended."""
        if self.states().get(server, {}).get("statename") in ("RUNNING", "STARTING", "BACKOFF"):
            self._call("stopProcess", server)

    def shutdown(self) -> None:
        """End the supervisor, which ends what still runs, and wait for it."""
        process = self.process
        if process is None:
            return
        try:
            self._call("shutdown")
        except SupervisorError:
            with suppress(psutil.NoSuchProcess):
                process.terminate()  # It takes the signal for the same order.
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()

    def _call(self, method: str, *arguments: object) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(
            None, None, serverurl=f"unix://{self._layout.supervisor_socket}"
        )
        try:
            proxy = ServerProxy("http://127.0.0.1", transport=transport)
            return getattr(proxy.supervisor, method)(*arguments)
        except Fault as fault:
            raise StackError(
                f"Supervisor refused {method}{arguments}: {fault.faultString}."
                f" Remedy: dp stack logs {arguments[0] if arguments else 'supervisor'}."
            ) from None
        except (OSError, HTTPException) as error:
            raise SupervisorError(
                f"The stack's supervisor doesn't answer ({type(error).__name__})."
                f" Remedy: see {self._layout.log('supervisor')}; dp stack down ends it all the same."
            ) from error
        finally:
            transport.close()
