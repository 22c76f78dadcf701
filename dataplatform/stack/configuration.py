"""The configuration of each server, written as files that hold no secret."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dataplatform.addresses import in_database
from dataplatform.lake.place import bucket_of
from dataplatform.lake.store.s3 import S3Access
from dataplatform.resources.servers import TRINO_CATALOGS
from dataplatform.stack.layout import HOST, Layout, Plan

RESTARTS: Final = 10
"""How often in a row supervisor tries to start a server, waiting one second longer each time."""
STOP_SECONDS: Final = 30

TRINO_JVM: Final = (
    "-server",
    "-Xmx1G",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ReservedCodeCacheSize=256M",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-OmitStackTraceInFastThrow",
    "-Djdk.attach.allowAttachSelf=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    # jvmkill and other agents are left out: no wheel of Java has them.
)


def write_configuration(layout: Layout, plan: Plan) -> None:
    """Write the files of every server that this stack starts, and of the supervisor."""
    writers = {"vault": _vault, "trino": _trino}
    for server in plan.ours:
        layout.data(server).mkdir(parents=True, exist_ok=True)
        if server in writers:
            writers[server](layout, plan)
    layout.log("supervisor").parent.mkdir(parents=True, exist_ok=True)
    _write(layout.supervisor_config, _supervisor(layout, plan))


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _vault(layout: Layout, plan: Plan) -> None:
    port, cluster = plan.ports["vault"], plan.ports["vault-cluster"]
    content = f"""api_addr = "http://{HOST}:{port}"
cluster_addr = "http://{HOST}:{cluster}"

# Raft, even for one node: it is the storage that takes snapshots while it runs.
storage "raft" {{
  path    = "{layout.data("vault")}"
  node_id = "stack"
}}

listener "tcp" {{
  address         = "{HOST}:{port}"
  cluster_address = "{HOST}:{cluster}"
  tls_disable     = true
}}

# The key lies on this machine: whoever may read it may read the secrets. A cluster wants a KMS.
seal "static" {{
  current_key_id = "stack-1"
  current_key    = "file://{layout.seal_key}"
}}

# The supervisor takes it from there: its files are bounded, and only this user may read them. Secrets
# are in it as hashes.
audit "file" "stdout" {{
  options {{
    file_path = "stdout"
  }}
}}
"""
    _write(layout.config("vault") / "vault.hcl", content)


def _trino(layout: Layout, plan: Plan) -> None:
    etc = layout.config("trino")
    port = plan.ports["trino"]
    _write(etc / "jvm.config", "\n".join(TRINO_JVM) + "\n")
    _properties(etc / "node.properties", {"node.environment": "stack", "node.id": "stack"})
    _properties(
        etc / "config.properties",
        {
            "coordinator": "true",
            "node-scheduler.include-coordinator": "true",
            "http-server.http.port": str(port),
            "node.bind-ip": HOST,
            "node.internal-address": HOST,
            "discovery.uri": f"http://{HOST}:{port}",
            "query.max-memory-per-node": "512MB",
            "memory.heap-headroom-per-node": "256MB",
            "catalog.management": "static",
        },
    )
    _properties(etc / "log.properties", {"io.trino": "INFO"})
    for origin, name in TRINO_CATALOGS.items():
        _properties(etc / "catalog" / f"{name}.properties", _iceberg(plan, origin))
    _properties(etc / "catalog" / "postgres.properties", _postgres_catalog(plan))


def _iceberg(plan: Plan, origin: str) -> Mapping[str, str]:
    from dataplatform.lake.catalog import RestCatalogServer

    # What stands for the keys is replaced by Trino, from the environment of its process.
    keys = "${ENV:STACK_S3_ACCESS_KEY}", "${ENV:STACK_S3_SECRET_KEY}"
    access = S3Access(plan.address("minio"), plan.region, *keys)
    uri = plan.address("catalog").format(origin=origin)
    return RestCatalogServer(uri, bucket_of("warehouse", origin), access).trino_properties()


def _postgres_catalog(plan: Plan) -> dict[str, str]:
    return {
        "connector.name": "postgresql",
        "connection-url": f"jdbc:{in_database(plan.address('postgres'), 'dagster')}",
        "connection-user": "${ENV:STACK_POSTGRES_USER}",
        "connection-password": "${ENV:STACK_POSTGRES_PASSWORD}",
        # Dagster's columns of time and JSON have types that Trino lacks.
        "postgresql.array-mapping": "AS_JSON",
        "unsupported-type-handling": "CONVERT_TO_VARCHAR",
    }


def _properties(path: Path, values: Mapping[str, str]) -> None:
    _write(path, "".join(f"{name}={value}\n" for name, value in values.items()))


def _supervisor(layout: Layout, plan: Plan) -> str:
    sections = {
        "supervisord": {
            "logfile": layout.log("supervisor"),
            "logfile_maxbytes": "5MB",
            "logfile_backups": 1,
            "pidfile": layout.supervisor_pid,
            "childlogdir": layout.log("supervisor").parent,
            "directory": layout.root,
            "identifier": "dataplatform",
            "nocleanup": "true",
            "umask": "077",
        },
        "unix_http_server": {"file": layout.supervisor_socket, "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for server in plan.ours:
        sections[f"program:{server}"] = _program(layout, server)
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={_escaped(value)}\n" for key, value in values.items())
        for name, values in sections.items()
    )


def _escaped(value: object) -> str:
    """Return a value as supervisor reads it: it fills in what follows a percent sign."""
    return str(value).replace("%", "%%")


def _program(layout: Layout, server: str) -> dict[str, object]:
    command = [sys.executable, "-m", "dataplatform.stack.launch", str(layout.root), server]
    return _outputs(layout, server) | {
        "command": shlex.join(command),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": 2,
        "startretries": RESTARTS,
        "stopwaitsecs": STOP_SECONDS,
        # PostgreSQL waits for its clients on SIGTERM, and ends them on SIGINT.
        "stopsignal": "INT" if server == "postgres" else "TERM",
        "killasgroup": "true",
    }


def _outputs(layout: Layout, server: str) -> dict[str, object]:
    """Say where a server's log goes; that of Vault is on stderr, and its audit log on stdout."""
    files = {"stdout": layout.log(server)}
    if server == "vault":
        files = {"stdout": layout.log("vault-audit"), "stderr": layout.log(server)}
    settings: dict[str, object] = {"redirect_stderr": "true" if len(files) == 1 else "false"}
    for stream, file in files.items():
        settings |= {
            f"{stream}_logfile": file,
            f"{stream}_logfile_maxbytes": "10MB",
            f"{stream}_logfile_backups": 2,
        }
    return settings
