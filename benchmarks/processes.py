"""Runs a program and measures its wall time and the memory of it and all its children."""

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERVAL = 0.1


@dataclass(frozen=True)
class Usage:
    """What a program and its children took.

    Args:
        seconds: wall time.
        cpu_seconds: of all processes; less at the mercy of what else the machine does.
        peak_mib: the largest sum of their resident memory.
        output: what was printed.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


class ProgramFailedError(RuntimeError):
    """A measured program failed: its figures mean nothing."""


def measure(command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> Usage:
    """Run `command` to its end.

    Memory is sampled ten times a second; pages shared by a parent and its forks count in each.

    Raises:
        ProgramFailedError: it ended with another code than 0; the message has its last lines.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=env, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as program:
        peaks: list[float] = []
        cpu: dict[int, float] = {}
        sampler = threading.Thread(target=_sample, args=(program.pid, peaks, cpu))
        sampler.start()
        output, _ = program.communicate()
        seconds = time.perf_counter() - started
        sampler.join()
    if program.returncode != 0:
        tail = "\n".join(output.splitlines()[-25:])
        raise ProgramFailedError(f"{' '.join(command)} ended with {program.returncode}:\n{tail}")
    return Usage(seconds, sum(cpu.values()), max(peaks, default=0.0), output)


def _sample(pid: int, peaks: list[float], cpu: dict[int, float]) -> None:
    while True:
        try:
            root = psutil.Process(pid)
            if root.status() == psutil.STATUS_ZOMBIE:
                return
            tree = [root, *root.children(recursive=True)]
            peaks.append(sum(_resident(process, cpu) for process in tree) / 2**20)
        except psutil.NoSuchProcess:
            return
        time.sleep(_INTERVAL)


def _resident(process: psutil.Process, cpu: dict[int, float]) -> int:
    """Return the resident bytes; note the CPU seconds, of which the last sighting stands."""
    try:
        times = process.cpu_times()
        cpu[process.pid] = times.user + times.system
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
