"""The part of constraints.txt that an image installs: hashes and all.

Run inside the build, where only the standard library is there:
    python3 locked.py constraints.txt packages.toml IMAGE > requirements.txt
"""

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = "dataplatform (pyproject.toml)"
"""What uv names as the parent of a package that pyproject.toml itself lists."""


class UnknownPackageError(ValueError):
    """A package is asked for that the lock does not hold."""


@dataclass(frozen=True)
class Locked:
    """One package of the lock.

    Attributes:
        name: its normalised name.
        version: the version that all Pythons get.
        text: its requirement with marker and hashes, as it stands in the lock.
        parents: who asked for it.
    """

    name: str
    version: str
    text: str
    parents: frozenset[str]


def read_lock(text: str) -> dict[str, Locked]:
    """Return the packages of a lock that `uv pip compile --generate-hashes` wrote."""
    found = (_package(block) for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:])
    return {package.name: package for package in found}


def _package(block: str) -> Locked:
    lines = block.splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    comments = (line.strip("# ") for line in lines if line.lstrip().startswith("#"))
    parents = {parent.removeprefix("via").strip() for parent in comments}
    name, _, rest = text.partition("==")
    return Locked(name, rest.split(maxsplit=1)[0], text, frozenset(parents - {""}))


def select(lock: Mapping[str, Locked], choice: Mapping[str, list[str]]) -> dict[str, Locked]:
    """Return the packages that a choice needs, in the order of the lock.

    Args:
        lock: all packages.
        choice: `only`, the packages to start from, or `without`, those that are left out of the
            project's own.

    Raises:
        UnknownPackageError: the choice names a package that the lock does not hold.
    """
    left_out = set(choice.get("without", ()))
    unknown = sorted((left_out | set(choice.get("only", ()))) - lock.keys())
    if unknown:
        raise UnknownPackageError(
            f"constraints.txt does not hold {', '.join(unknown)}."
            " Remedy: correct infra/images/packages.toml."
        )
    roots = choice.get("only") or [name for name, p in lock.items() if _ROOT in p.parents]
    chosen = set(roots) - left_out
    while added := _children(lock, chosen) - chosen - left_out:
        chosen |= added
    return {name: package for name, package in lock.items() if name in chosen}


def _children(lock: Mapping[str, Locked], parents: set[str]) -> set[str]:
    return {name for name, package in lock.items() if package.parents & parents}


def main(lock: str, choices: str, image: str) -> None:
    """Write the requirements of an image to stdout."""
    choice = tomllib.loads(Path(choices).read_text())[image]
    chosen = select(read_lock(Path(lock).read_text()), choice)
    sys.stdout.write("\n".join(package.text for package in chosen.values()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
