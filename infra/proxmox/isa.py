"""Levels of x86-64, and what CPU types give a machine."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.spec.model import DIRECTORY

LEVELS: Final = ("x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4")
FLAGS: Final[Mapping[str, frozenset[str]]] = {
    "x86-64-v2": frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    "x86-64-v3": frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}
"""What each level adds, in the words of Linux's /proc/cpuinfo."""

_TYPES: Final[Mapping[str, str]] = {
    "kvm32": "x86-64-v1",
    "kvm64": "x86-64-v1",
    "qemu64": "x86-64-v1",
    "x86-64-v2": "x86-64-v2",
    "x86-64-v2-AES": "x86-64-v2",
    "Nehalem": "x86-64-v2",
    "Westmere": "x86-64-v2",
    "SandyBridge": "x86-64-v2",
    "IvyBridge": "x86-64-v2",
    "Opteron_G5": "x86-64-v2",
    "x86-64-v3": "x86-64-v3",
    "Haswell": "x86-64-v3",
    "Broadwell": "x86-64-v3",
    "Skylake-Client": "x86-64-v3",
    "EPYC": "x86-64-v3",
    "EPYC-Rome": "x86-64-v3",
    "EPYC-Milan": "x86-64-v3",
    "x86-64-v4": "x86-64-v4",
    "Skylake-Server": "x86-64-v4",
    "Icelake-Server": "x86-64-v4",
    "EPYC-Genoa": "x86-64-v4",
}


@dataclass(frozen=True)
class Needed:
    """What an image needs.

    Attributes:
        image: its name and version.
        level: of x86-64.
    """

    image: str
    level: str


def level_of_flags(flags: Iterable[str]) -> str:
    """Return the highest level whose flags, and those of the levels below, are all there."""
    has, level = set(flags), LEVELS[0]
    for name, needs in FLAGS.items():
        if not needs <= has:
            break
        level = name
    return level


def level_of_type(cpu_type: str, host: str) -> str | None:
    """Return the level that a CPU type gives on a host of that level; None: not known."""
    return host if cpu_type in ("host", "max") else _TYPES.get(cpu_type)


def missing_flags(flags: Iterable[str], level: str) -> tuple[str, ...]:
    """Return the flags that a level needs and that are not there."""
    needed = [FLAGS[name] for name in LEVELS[1 : LEVELS.index(level) + 1]]
    return tuple(sorted(frozenset().union(*needed) - set(flags)))


def needed(lock: Path = DIRECTORY / "images.lock.yaml") -> tuple[Needed, ...]:
    """Return what each image of the lock needs."""
    import yaml

    return tuple(
        Needed(f"{one['image']}:{one['version']}", one["min_isa"])
        for one in yaml.safe_load(lock.read_text(encoding="utf-8"))["images"]
    )
