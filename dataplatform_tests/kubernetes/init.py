"""`python -m dataplatform_tests.kubernetes.init FOLDER`: the first process in a node's namespaces.

It starts and stops programs as its standard input says, one JSON object a line, and ends when that
closes. With the first process of a process namespace the kernel ends all others, containers included,
and drops the namespace's mounts: a killed test leaves nothing behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any, Final

SYSCTLS: Final = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What a kubelet sets for the whole machine."""

HIDDEN: Final = ("/run/containerd", "/var/lib/kubelet", "/var/log/containers")
"""Where the programs put files whatever they are told."""


class Init:
    """Starts programs, each with a log of its own, and notes the exit status of each that ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def obey(self, request: dict[str, Any]) -> None:
        name = request["name"]
        if "signal" in request:
            os.kill(self._running[name].pid, signal.Signals[request["signal"]])
            return
        (self._folder / "ended" / name).unlink(missing_ok=True)
        with (self._folder / "logs" / f"{name}.log").open("ab") as log:
            environment = os.environ | request["environment"]
            self._running[name] = subprocess.Popen(
                request["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def reap(self) -> None:
        """Collect every process that ends: those of containers become children of this one."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.05)
                continue
            for name, process in list(self._running.items()):
                if process.pid == pid:
                    code = os.waitstatus_to_exitcode(status)
                    (self._folder / "ended" / name).write_text(str(code))


def hide_sysctls(folder: Path) -> None:
    """Give the kubelet files to write to instead of the settings of the machine's kernel."""
    for name in SYSCTLS:
        setting = Path("/proc/sys") / name
        if setting.exists():
            copy = folder / "sysctls" / name.replace("/", ".")
            copy.write_text(setting.read_text())
            subprocess.run(["mount", "--bind", str(copy), str(setting)], check=True)


def hide_folders() -> None:
    """Give the node folders of its own in place of the machine's, which another node may use."""
    for name in HIDDEN:
        Path(name).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", name], check=True)


def main() -> None:
    folder = Path(sys.argv[1])
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    hide_sysctls(folder)
    hide_folders()
    init = Init(folder)
    Thread(target=init.reap, daemon=True).start()
    for line in sys.stdin:
        init.obey(json.loads(line))


if __name__ == "__main__":
    main()
