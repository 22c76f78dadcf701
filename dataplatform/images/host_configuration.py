"""Where this machine gets packages: handed to a build as secrets, so that no layer holds it."""

import os
import shlex
import subprocess
import sys
from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SETTINGS: Final = {
    # pip's setting -> the variables that pip and uv read inside the build.
    "index-url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    "extra-index-url": ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
    "trusted-host": ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST"),
    "proxy": ("PIP_PROXY", "ALL_PROXY"),
}
_CARRIED: Final = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
_CARRIED_START: Final = ("UV_INDEX_", "UV_INSECURE_")
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def build_secrets(folder: Path) -> dict[str, Path]:
    """Return the secrets of a build by their ids, written into a folder of the caller's.

    Args:
        folder: a private one, which the caller removes.

    Returns:
        `index`, variables of pip, uv and proxies in the shell's notation, and `ca`, the authorities
        that this machine trusts; each only where there is something to say.
    """
    pip = _pip_settings()
    found = index_variables(os.environ, pip)
    secrets = {}
    if found:
        secrets["index"] = folder / "index"
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in sorted(found.items()))
        secrets["index"].touch(mode=0o600)
        secrets["index"].write_text("".join(lines))
    authorities = os.environ.get("SSL_CERT_FILE") or pip.get("cert", "")
    if authorities and Path(authorities).is_file():
        secrets["ca"] = Path(authorities).resolve()
    return secrets


def index_variables(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make pip and uv in a build ask what they ask on this machine.

    Args:
        environ: this process's environment; what it says to uv wins over what pip is told.
        pip: pip's settings, by their names in `pip config`.
    """
    found = {}
    for setting, names in _SETTINGS.items():
        value = pip.get(setting)
        if value:
            found |= dict.fromkeys(names, " ".join(value.split()))
    for name, value in environ.items():
        if name in _CARRIED or name.startswith(_CARRIED_START) or name.upper() in _PROXIES:
            found[name] = value
    return {name: value for name, value in found.items() if value}


def _pip_settings() -> dict[str, str]:
    """Return pip's settings, which it prints as Python's literals; the environment's come first."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    settings: dict[str, str] = {}
    rank = {"global": 0, "install": 1, ":env:": 2}
    lines = [line.partition("=") for line in run.stdout.splitlines() if "=" in line]
    keyed = [(*key.rsplit(".", 1), literal_eval(value)) for key, _, value in lines if "." in key]
    for _section, name, value in sorted(keyed, key=lambda entry: rank.get(entry[0], -1)):
        settings[name] = " ".join(value.split())
    return settings
