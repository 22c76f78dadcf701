"""A home of its own for `dagster asset materialize`, run as a user runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DagsterHome:
    """A folder with Dagster's home and a lake's, and the settings that the runs get.

    Args:
        root: where both lie.
        settings: `DATAPLATFORM_*` variables.
        configured: Dagster's home, where it is there already; None, one of its own.
    """

    root: Path
    settings: Mapping[str, str]
    configured: Path | None = None

    @property
    def lake(self) -> Path:
        """The home of the lakes."""
        return self.root / "lake"

    def materialize(self, select: str = "*", **options: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster asset materialize`; `options` are further ones, such as `partition`."""
        command = ["asset", "materialize", "--select", select]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", value]
        return self._dagster(command)

    def execute(self, job: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster job execute`."""
        return self._dagster(["job", "execute", "-j", job])

    def _dagster(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        home = self.configured or self._own_home()
        own = {k: v for k, v in os.environ.items() if not k.startswith("DATAPLATFORM_")}
        named = {"DAGSTER_HOME": str(home), "DATAPLATFORM_HOME": str(self.lake)}
        done = subprocess.run(
            [sys.executable, "-m", "dagster", *command, "-m", "dataplatform.definitions"],
            check=False,
            # Not the repository's folder: a developer's `.env` lies there.
            cwd=self.root,
            env={**own, **named, **self.settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=840,
        )
        (self.root / f"log-{len(list(self.root.glob('log-*')))}").write_text(done.stdout)
        return done

    def _own_home(self) -> Path:
        home = self.root / "dagster"
        home.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / "dagster.yaml", home)
        return home
