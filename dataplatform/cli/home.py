"""Settings and Dagster's home, for the commands that run or read Dagster."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dataplatform.cli.console import UserError
from dataplatform.profiles import Settings

_CONFIG: Final = "dagster.yaml"
_CONFIG_OF_SERVERS: Final = "dagster.servers.yaml"
_ROOT: Final = Path(__file__).parents[2]
_KEPT_LOGS: Final = 20


def load_settings() -> Settings:
    """Read the settings from the environment and `.env`.

    Raises:
        UserError: a value is not one that the setting takes.
    """
    from pydantic import ValidationError

    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"DATAPLATFORM_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
            for problem in error.errors(include_input=False)
        )
        raise UserError(f"{problems}. Remedy: see the settings in docs/operations.md.") from None


def dagster_home(settings: Settings) -> Path:
    """Return where Dagster keeps runs and events: DAGSTER_HOME where set, else in the state folder."""
    return Path(os.environ.get("DAGSTER_HOME") or settings.state / "dagster").resolve()


def prepare_dagster_home(settings: Settings) -> Path:
    """Make Dagster's home with the project's configuration, and point this process at it."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    config = home / _CONFIG
    if settings.profile != "local":
        config.write_text(_on_servers())
    elif not config.exists():
        config.unlink(missing_ok=True)  # A link whose target is gone.
        _configure(config)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _configure(config: Path) -> None:
    """Link the repository's configuration, so that an edit there is in force here."""
    source = _ROOT / _CONFIG
    if source.exists():
        config.symlink_to(os.path.relpath(source, config.parent))
    else:  # Installed as a wheel: Dagster's defaults, but nothing is sent anywhere.
        config.write_text("telemetry:\n  enabled: false\n")


def _on_servers() -> str:
    """Return the configuration with Dagster's storage on servers."""
    return "\n".join((_ROOT / name).read_text() for name in (_CONFIG, _CONFIG_OF_SERVERS))


def new_log(settings: Settings, name: str) -> Path:
    """Return the path of a new log file in the state folder; of the old ones the last 20 stay."""
    folder = settings.home.resolve() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob(f"{name}-*.log"))[: -_KEPT_LOGS + 1]:
        old.unlink(missing_ok=True)
    return folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
