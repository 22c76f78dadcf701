"""Where a secret is read from: one small interface, whatever stands behind it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

_KEYS: Final = ("access_key", "secret_key")
_LOGIN: Final = ("username", "password")

SECRETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "minio/root": _KEYS,
        "minio/platform": _KEYS,
        "minio/trino": _KEYS,
        "minio/catalog": _KEYS,
        "minio/inbox": _KEYS,
        "postgres/superuser": _LOGIN,
        "postgres/dagster": _LOGIN,
        "postgres/catalog": _LOGIN,
        "postgres/trino": _LOGIN,
        "trino/platform": _LOGIN,
        "catalog/platform": ("token",),
        "coingecko": ("api_key",),
        "proxmox": ("token_id", "token_secret"),
    }
)
"""The secrets that the platform knows: path to the names of its values."""

_OTHER_FORMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "trino/platform": ("token",),
        "catalog/platform": ("credential", "oauth2-server-uri", "scope"),
    }
)
"""A JWT, where Trino wants one in place of a password; OAuth2, where a catalog wants it."""


class SecretError(Exception):
    """A secret that could not be had. The message holds no secret.

    Args:
        subject: what was asked for, such as the secret's path.
        cause: why it failed, in a sentence.
        remedy: what to do, in a sentence.
    """

    def __init__(self, subject: str, cause: str, remedy: str) -> None:
        """Keep the parts and put them together into one message."""
        super().__init__(f"{subject}: {cause}. Remedy: {remedy}.")
        self.subject = subject
        self.cause = cause
        self.remedy = remedy


class SecretNotFoundError(SecretError):
    """There is no secret at the path."""


class SecretStore(Protocol):
    """What hands out secrets by path."""

    def read(self, path: str) -> Mapping[str, str]:
        """Return the values of the secret at `path`, such as `minio/platform`.

        Raises:
            SecretNotFoundError: there is none.
            SecretError: it can't be had; the message says why and what to do.
        """


class EnvironmentSecrets:
    """Secrets from environment variables: `minio/root` has `DATAPLATFORM_MINIO_ROOT_ACCESS_KEY`.

    Args:
        environment: the variables, such as `os.environ`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def read(self, path: str) -> Mapping[str, str]:
        """Return the values of the secret at `path`.

        Raises:
            SecretNotFoundError: the platform knows no such path, or a variable is not set.
        """
        if path not in SECRETS:
            known = ", ".join(SECRETS)
            raise SecretNotFoundError(path, "no secret has this path", f"ask for one of {known}")
        missing: list[str] = []
        for form in forms_of(path):
            names = {field: variable_of(path, field) for field in form}
            lacking = [name for name in names.values() if not self._environment.get(name)]
            if not lacking:
                return {field: self._environment[name].strip() for field, name in names.items()}
            missing.append(lacking[0])
        remedy = f"set {' or '.join(missing)}"
        raise SecretNotFoundError(path, "it is not in the environment", remedy)


class MountedSecrets:
    """Secrets from mounted files, one a value: `minio/platform/secret_key` below the folder.

    A Kubernetes Secret with the keys `access_key` and `secret_key`, mounted at `minio/platform`, has
    that layout; External Secrets makes such a one of a secret in Vault. The files are read when they
    are asked for, as a kubelet replaces them when the Secret changes.

    Args:
        folder: where they are mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> Mapping[str, str]:
        """Return the values of the secret at `path`.

        Raises:
            SecretNotFoundError: the platform knows no such path, or a file is missing or empty.
            SecretError: a file can't be read.
        """
        forms = forms_of(path)
        if not forms:
            known = ", ".join(SECRETS)
            raise SecretNotFoundError(path, "no secret has this path", f"ask for one of {known}")
        found = [self._values(path, form) for form in forms]
        for form, values in zip(forms, found, strict=True):
            if all(values.get(field) for field in form):
                return values
        missing = " or ".join(str(self._missing(path, form)) for form in forms)
        remedy = f"mount the Secret that has it at {self._folder / path}"
        raise SecretNotFoundError(path, f"there is no file {missing}, or it is empty", remedy)

    def _values(self, path: str, form: tuple[str, ...]) -> dict[str, str]:
        values = {field: self._value(path, field) for field in form}
        return {field: value for field, value in values.items() if value}

    def _missing(self, path: str, form: tuple[str, ...]) -> Path:
        lacking = [field for field in form if not self._value(path, field)]
        return self._folder / path / lacking[0]

    def _value(self, path: str, field: str) -> str:
        file = self._folder / path / field
        try:
            return file.read_text().strip() if file.is_file() else ""
        except OSError as error:
            remedy = "let the pod's user read it: fsGroup, or the volume's defaultMode"
            raise SecretError(path, f"{file} can't be read ({error.strerror})", remedy) from None


def forms_of(path: str) -> list[tuple[str, ...]]:
    """Return the names of a secret's values, for each form that it may have; none where unknown."""
    return [form[path] for form in (SECRETS, _OTHER_FORMS) if path in form]


def variable_of(path: str, field: str) -> str:
    """Return the environment variable of one value of a secret."""
    return "_".join(["DATAPLATFORM", *path.split("/"), field]).upper()
