"""`python -m dataplatform.stack.launch ROOT SERVER`: become a server, with its secrets.

The supervisor starts servers through here. The secrets are read from Vault at that moment and go into
the environment of the one process that needs them: no file and no list of processes shows them, and a
restart after a rotation takes the new ones.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from dataplatform.addresses import in_database
from dataplatform.lake.jvm import find_java
from dataplatform.lake.secrets import SecretError
from dataplatform.stack.install import catalog_classpath
from dataplatform.stack.layout import HOST, Layout, Plan, StackError
from dataplatform.vault.auth import Login
from dataplatform.vault.client import VaultClient

UNPRIVILEGED: Final = 65534
"""The user `nobody`: PostgreSQL refuses to run as root."""

Start = tuple[list[str], dict[str, str]]
"""A command, and what its environment has besides the supervisor's."""


PATIENCE_SECONDS: Final = 60.0
"""Where all servers died at once, all start again at once, and Vault may be the last to answer."""


def open_vault(plan: Plan, login: str) -> VaultClient:
    """Return a client of the stack's Vault, for the setting up or for a server's starter."""
    how = plan.logins[login]
    return VaultClient(
        plan.address("vault"),
        Login(how.method, how.role, how.credential_file),
        ca_file=plan.vault_ca_file,
        patience=PATIENCE_SECONDS,
    )


def _secrets(plan: Plan, server: str, *paths: str) -> list[Mapping[str, str]]:
    with closing(open_vault(plan, server)) as vault:
        return [vault.read(path).values for path in paths]


def vault(layout: Layout, plan: Plan) -> Start:
    """Return how OpenBao is started."""
    config = layout.config("vault") / "vault.hcl"
    return [str(plan.homes["vault"] / "bin" / "bao"), "server", f"-config={config}"], {}


def postgres(layout: Layout, plan: Plan) -> Start:
    """Return how PostgreSQL is started: on TCP only, without a socket in the file system."""
    options = {
        "listen_addresses": HOST,
        "port": plan.ports["postgres"],
        "unix_socket_directories": "",
        "max_connections": 100,
        "shared_buffers": "64MB",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    server = str(plan.homes["postgres"] / "bin" / "postgres")
    return unprivileged([server, "-D", str(layout.data("postgres")), *settings]), {}


def unprivileged(command: list[str]) -> list[str]:
    """Return the command, given up to the user `nobody` where we are root.

    The user keeps the right to pass folders that only root may enter, such as root's own home. Without
    the secure bit, access(2), by which PostgreSQL looks for its own files, would not know that right.
    """
    if os.geteuid() != 0:
        return command
    tool = shutil.which("setpriv")
    if tool is None:
        raise StackError(
            "PostgreSQL does not run as root. Remedy: run dp stack as another user,"
            " or install setpriv (util-linux)."
        )
    user = [f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
    right = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [tool, *user, "--securebits=+no_setuid_fixup", *right, *command]


def minio(layout: Layout, plan: Plan) -> Start:
    """Return how MinIO is started."""
    root, kms = _secrets(plan, "minio", "minio/root", "minio/kms")
    environment = {
        "MINIO_ROOT_USER": root["access_key"],
        "MINIO_ROOT_PASSWORD": root["secret_key"],
        "MINIO_KMS_SECRET_KEY": kms["key"],
        "MINIO_REGION": plan.region,
        "MINIO_UPDATE": "off",
    }
    addresses = [
        *("--address", f"{HOST}:{plan.ports['minio']}"),
        *("--console-address", f"{HOST}:{plan.ports['minio-console']}"),
    ]
    server = str(plan.homes["minio"] / "minio")
    return [server, "server", *addresses, str(layout.data("minio"))], environment


def catalog(_layout: Layout, plan: Plan) -> Start:
    """Return how the Iceberg REST catalog is started: one context an origin."""
    storage, database = _secrets(plan, "catalog", "minio/catalog", "postgres/catalog")
    environment = {
        "CATALOG_JDBC_URI": f"jdbc:{in_database(plan.address('postgres'), 'catalog')}",
        "CATALOG_JDBC_USER": database["username"],
        "CATALOG_JDBC_PASSWORD": database["password"],
        "CATALOG_S3_ENDPOINT": plan.address("minio"),
        "CATALOG_S3_REGION": plan.region,
        "CATALOG_S3_ACCESS_KEY": storage["access_key"],
        "CATALOG_S3_SECRET_KEY": storage["secret_key"],
    }
    command = [
        str(find_java() / "bin" / "java"),
        *(
            "-Xmx256m",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ),
        *("-cp", catalog_classpath(plan.homes["catalog"]), "CatalogServer"),
        str(plan.ports["catalog"]),
        *("live=s3://warehouse", "recorded=s3://warehouse-recorded"),
    ]
    return command, environment


def trino(layout: Layout, plan: Plan) -> Start:
    """Return how Trino is started; its catalog files name these variables of the environment."""
    storage, database = _secrets(plan, "trino", "minio/trino", "postgres/trino")
    java = str(plan.trino_java)
    environment = {
        "STACK_S3_ACCESS_KEY": storage["access_key"],
        "STACK_S3_SECRET_KEY": storage["secret_key"],
        "STACK_POSTGRES_USER": database["username"],
        "STACK_POSTGRES_PASSWORD": database["password"],
        "JAVA_HOME": java,
        "PATH": f"{java}/bin{os.pathsep}{os.environ['PATH']}",
    }
    folders = ["--etc-dir", str(layout.config("trino")), "--data-dir", str(layout.data("trino"))]
    return [str(plan.homes["trino"] / "bin" / "launcher"), "run", *folders], environment


STARTS: Final[dict[str, Callable[[Layout, Plan], Start]]] = {
    "vault": vault,
    "postgres": postgres,
    "minio": minio,
    "catalog": catalog,
    "trino": trino,
}


def main(root: str, server: str) -> None:
    """Replace this process by the server."""
    layout = Layout(Path(root))
    command, environment = STARTS[server](layout, Plan.read(layout))
    os.chdir(layout.data(server))
    os.execve(command[0], command, os.environ | environment)  # noqa: S606


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (StackError, SecretError) as error:
        sys.exit(f"Error: {error}")
