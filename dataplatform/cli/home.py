"""Settings and Dagster's home, for the commands that run or read Dagster."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final

from dataplatform.cli.console import UserError, err
from dataplatform.profiles import Settings

_CONFIG: Final = "dagster.yaml"
_CONFIG_OF_SERVERS: Final = "dagster.servers.yaml"
_CONFIGS: Final = (_CONFIG, _CONFIG_OF_SERVERS)
_MARK: Final = "# Written by dp, which writes it anew; without this line it leaves the file alone."
_PACKAGE: Final = Path(__file__).parents[1]
_ROOT: Final = _PACKAGE.parent
_KEPT_LOGS: Final = 20
_PREFIX: Final = "DATAPLATFORM_"
_CREDENTIAL_OF_VAULT: Final = f"{_PREFIX}VAULT_CREDENTIAL"
_OPTIONS: Final = (f"{_PREFIX}INFRA_SPEC", f"{_PREFIX}INFRA_PROFILE")
"""Variables that stand for an option of `dp`."""


def load_settings() -> Settings:
    """Read the settings from the environment and `.env`; a name that is none is warned of once.

    Raises:
        UserError: a value is not one that the setting takes.
    """
    from dotenv import dotenv_values
    from pydantic import ValidationError

    _warn_of(unknown_settings([*os.environ, *dotenv_values(".env")]))
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{_PREFIX}{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
            for problem in error.errors(include_input=False)
        )
        raise UserError(f"{problems}. Remedy: see the settings in docs/operations.md.") from None


def unknown_settings(variables: Iterable[str]) -> tuple[str, ...]:
    """Return the variables with the platform's prefix that it does not read, sorted."""
    named = (name for name in variables if name.upper().startswith(_PREFIX))
    return tuple(sorted({name for name in named if name.upper() not in _known()}))


@cache
def _known() -> frozenset[str]:
    """Return the variables of the settings, and those of the secrets on `local`."""
    from dataplatform.lake.secrets import SECRETS, forms_of, variable_of

    settings = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    secrets = {variable_of(path, name) for path in SECRETS for f in forms_of(path) for name in f}
    return frozenset({*settings, *secrets, *_OPTIONS, _CREDENTIAL_OF_VAULT})


@cache
def _warn_of(unknown: tuple[str, ...]) -> None:
    """Say once a process that a variable means nothing, and which one may be meant."""
    for name in unknown:
        near = get_close_matches(name.upper(), _known(), n=1, cutoff=0.8)
        meant = f"Did you mean {near[0]}?" if near else "docs/operations.md lists the settings."
        err().print(f"{name} is no setting and is ignored. {meant}", style="yellow", markup=False)


def dagster_home(settings: Settings) -> Path:
    """Return where Dagster keeps runs and events: DAGSTER_HOME where set, else in the state folder."""
    return Path(os.environ.get("DAGSTER_HOME") or settings.state / "dagster").resolve()


def prepare_dagster_home(settings: Settings) -> Path:
    """Make Dagster's home with the project's configuration, and point this process at it.

    A configuration that somebody else wrote is left as it is, and a note on stderr says so.
    """
    home = dagster_home(settings)
    write_dagster_config(home, servers=settings.profile != "local")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def write_dagster_config(home: Path, *, servers: bool) -> None:
    """Write `dagster.yaml` into Dagster's home, unless one is there that is not ours.

    Args:
        home: Dagster's, which is made where there is none.
        servers: with Dagster's storage on the profile's servers, not in files beside it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = home / _CONFIG
    if config.exists() and not _is_ours(config):
        if servers:
            err().print(
                f"{config} was not written by dp and stays as it is, Dagster's storage with it."
                " Remedy, if that is not what you want: remove it.",
                style="yellow",
            )
        return
    if servers:
        # Not written through a link: that is the project's own file.
        config.unlink(missing_ok=True)
        config.write_text(_on_servers())
    elif not config.exists() or not config.is_symlink():
        config.unlink(missing_ok=True)  # A link whose target is gone, or what servers had.
        _configure(config)


def _is_ours(config: Path) -> bool:
    """Whether we wrote this file: it says so, or is word by word the project's, as a link is."""
    text = config.read_text()
    return text.startswith(_MARK) or text in (_source(_CONFIG), _joined())


def _configure(config: Path) -> None:
    """Link the repository's configuration, so that an edit there is in force here."""
    source = _ROOT / _CONFIG
    if source.exists():
        config.symlink_to(os.path.relpath(source, config.parent))
    else:
        config.write_text(f"{_MARK}\n{_source(_CONFIG)}")


def _on_servers() -> str:
    """Return the configuration with Dagster's storage on servers."""
    return f"{_MARK}\n{_joined()}"


def _joined() -> str:
    return "\n".join(map(_source, _CONFIGS))


def _source(name: str) -> str:
    """Return one of the project's files: beside the package in a checkout, inside it in a wheel."""
    path = _ROOT / name
    return (path if path.exists() else _PACKAGE / name).read_text()


def new_log(settings: Settings, name: str) -> Path:
    """Return the path of a new log file in the state folder; of the old ones the last 20 stay."""
    folder = settings.home.resolve() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob(f"{name}-*.log"))[: -_KEPT_LOGS + 1]:
        old.unlink(missing_ok=True)
    return folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
