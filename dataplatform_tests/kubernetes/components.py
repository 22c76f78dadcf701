"""How each program of a node is started and what configuration it reads."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from dataplatform_tests.kubernetes import loopback, oci
from dataplatform_tests.kubernetes.loopback import Ports

NODE_NAME: Final = loopback.NODE
"""A kubelet whose node is named by an address takes that for the node's, on an interface or not."""
Command = tuple[list[str], dict[str, str]]
"""A command, and what its environment has besides this process's."""
_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Layout:
    """The folders of a node and its ports."""

    folder: Path
    programs: Path
    ports: Ports

    @property
    def debian(self) -> Path:
        return self.programs / "debian"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        """Return the log of a program."""
        return self.logs / f"{name}.log"

    @property
    def ended(self) -> Path:
        """Return the folder with the exit status of each program that ended."""
        return self.folder / "ended"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def server(self) -> str:
        """Return the address of the API server."""
        return f"https://{loopback.ADDRESS}:{self.ports['kube-apiserver']}"

    @property
    def api_certificate(self) -> Path:
        return self.folder / "api" / "apiserver.crt"

    @property
    def cgroup(self) -> str:
        """Return the cgroup that holds all containers, so that nodes beside leave them alone."""
        return f"dataplatform-node-{self.ports.number}"

    @property
    def cgroup_folders(self) -> list[Path]:
        """Return the cgroup's folder in each hierarchy; in version 2 there is one hierarchy."""
        root = Path("/sys/fs/cgroup")
        if (root / "cgroup.controllers").exists():
            return [root / self.cgroup]
        hierarchies = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
        return [hierarchy / self.cgroup for hierarchy in hierarchies]

    @property
    def egress(self) -> Path:
        """Return the socket by which the API server reaches the kubelet and pods."""
        return self.folder / "egress.sock"

    @property
    def audit(self) -> Path:
        """Return the API server's record of what service accounts asked it: a JSON object a line."""
        return self.folder / "audit.jsonl"

    def kubeconfig(self, user: str) -> Path:
        return self.secrets / f"{user}.kubeconfig"

    def make_folders(self) -> None:
        for name in ("logs", "ended", "secrets", "sysctls", "cni"):
            (self.folder / name).mkdir(parents=True)
        for folder in self.cgroup_folders:
            folder.mkdir(exist_ok=True)

    def python(self, module: str) -> list[str]:
        """Return the command of one of this package's modules."""
        return [sys.executable, "-m", f"dataplatform_tests.kubernetes.{module}"]


def commands(layout: Layout) -> Mapping[str, Command]:
    """Return how each program is started, by its name."""
    python_path = {"PYTHONPATH": str(oci.CHECKOUT)}
    path = {
        "PATH": f"{layout.debian}/usr/bin:{layout.debian}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    }
    containerd = [
        str(layout.debian / "usr/bin/containerd"),
        "-c",
        f"{layout.folder}/containerd.toml",
    ]
    return {
        "etcd": (_etcd(layout), {}),
        "containerd": (containerd, path),
        "dns": (layout.python("dns"), python_path),
        "egress": ([*layout.python("egress"), str(layout.egress)], python_path),
        # Collected twice as often as Go does by itself, it takes a quarter less memory.
        "kube-apiserver": (_api_server(layout), {"GOGC": "50"}),
        "kube-controller-manager": (_controller_manager(layout), {}),
        "kube-scheduler": (_scheduler(layout), {}),
        "kubelet": (_kubelet(layout), path),
    }


def _options(program: Path, **options: object) -> list[str]:
    pairs = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [str(program), *pairs]


def _etcd(layout: Layout) -> list[str]:
    client = f"http://{loopback.ADDRESS}:{layout.ports['etcd']}"
    peer = f"http://{loopback.ADDRESS}:{layout.ports['etcd-peers']}"
    command = _options(
        layout.programs / "etcd",
        name="node",
        data_dir=layout.folder / "etcd",
        listen_client_urls=client,
        advertise_client_urls=client,
        listen_peer_urls=peer,
        initial_advertise_peer_urls=peer,
        initial_cluster=f"node={peer}",
        log_level="warn",
    )
    return [*command, "--unsafe-no-fsync"]


def _api_server(layout: Layout) -> list[str]:
    issuer = "https://kubernetes.default.svc.cluster.local"
    return _options(
        layout.programs / "kube-apiserver",
        etcd_servers=f"http://{loopback.ADDRESS}:{layout.ports['etcd']}",
        bind_address=loopback.ADDRESS,
        advertise_address=loopback.ADDRESS,
        secure_port=layout.ports["kube-apiserver"],
        service_cluster_ip_range=loopback.SERVICES,
        # The service `kubernetes` would have an endpoint at 127.0.0.1, which is refused.
        endpoint_reconciler_type="none",
        egress_selector_config_file=layout.folder / "egress.yaml",
        cert_dir=layout.api_certificate.parent,
        service_account_issuer=issuer,
        service_account_key_file=layout.secrets / "sa.key",
        service_account_signing_key_file=layout.secrets / "sa.key",
        api_audiences=f"api,{issuer}",
        token_auth_file=layout.secrets / "tokens.csv",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
        kubelet_client_certificate=layout.secrets / "kubelet-client.crt",
        kubelet_client_key=layout.secrets / "kubelet-client.key",
        profiling="false",
        audit_policy_file=layout.folder / "audit.yaml",
        audit_log_path=layout.audit,
    )


def _controller_manager(layout: Layout) -> list[str]:
    return _options(
        layout.programs / "kube-controller-manager",
        kubeconfig=layout.kubeconfig("admin"),
        bind_address=loopback.ADDRESS,
        secure_port=layout.ports["kube-controller-manager"],
        cert_dir=layout.folder / "controller-manager",
        service_account_private_key_file=layout.secrets / "sa.key",
        root_ca_file=layout.api_certificate,
        flex_volume_plugin_dir=layout.folder / "volume-plugins",
        use_service_account_credentials="false",
        leader_elect="false",
    )


def _scheduler(layout: Layout) -> list[str]:
    return _options(
        layout.programs / "kube-scheduler",
        kubeconfig=layout.kubeconfig("admin"),
        bind_address=loopback.ADDRESS,
        secure_port=layout.ports["kube-scheduler"],
        cert_dir=layout.folder / "scheduler",
        leader_elect="false",
    )


def _kubelet(layout: Layout) -> list[str]:
    return _options(
        layout.programs / "kubelet",
        config=layout.folder / "kubelet.yaml",
        kubeconfig=layout.kubeconfig("kubelet"),
        root_dir=layout.folder / "kubelet",
        cert_dir=layout.folder / "kubelet-certificates",
        hostname_override=NODE_NAME,
        v=1,
    )


def write_configuration(layout: Layout, tokens: Mapping[str, str]) -> None:
    """Write keys, tokens and the configuration files of containerd and the kubelet."""
    groups = {"admin": "system:masters", "plain": "plain", "kubelet": "system:nodes"}
    users = {user: user for user in tokens} | {"kubelet": f"system:node:{NODE_NAME}"}
    rows = [f'{tokens[user]},{users[user]},{user},"{groups[user]}"\n' for user in tokens]
    layout.secrets.chmod(0o700)
    (layout.secrets / "tokens.csv").write_text("".join(rows))
    (layout.secrets / "tokens.json").write_text(json.dumps(dict(tokens)))
    _make_keys(layout)
    (layout.folder / "containerd.toml").write_text(_containerd(layout))
    network = {"cniVersion": "0.4.0", "name": "loopback", "plugins": [{"type": "loopback"}]}
    (layout.folder / "cni" / "loopback.conflist").write_text(json.dumps(network))
    # Pods that do not ask for the cluster's DNS get it too, and no test asks a server outside.
    (layout.folder / "resolv.conf").write_text(f"nameserver {loopback.ADDRESS}\n")
    (layout.folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_configuration(layout)))
    (layout.folder / "egress.yaml").write_text(yaml.safe_dump(_egress_configuration(layout)))
    (layout.folder / "audit.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))


def write_kubeconfig(layout: Layout) -> None:
    """Write a kubeconfig for each user; that of the administrator has the plain user too."""
    tokens = json.loads((layout.secrets / "tokens.json").read_text())
    cluster = {"server": layout.server}
    cluster["certificate-authority"] = str(layout.api_certificate)
    for user, names in {"admin": ("admin", "plain"), "kubelet": ("kubelet",)}.items():
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "node", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": tokens[name]}} for name in names],
            "contexts": [
                {"name": name, "context": {"cluster": "node", "user": name}} for name in names
            ],
            "current-context": user,
        }
        layout.kubeconfig(user).write_text(yaml.safe_dump(config))


def _make_keys(layout: Layout) -> None:
    """Make the key of service accounts, and the authority and certificate of the kubelet's client."""
    for_all = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "rsa:2048"]
    for name, subject in {"ca": "/CN=node", "kubelet-client": "/O=system:masters/CN=api"}.items():
        command = [*for_all, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.crt"]
        if name != "ca":
            command += ["-CA", "ca.crt", "-CAkey", "ca.key"]
        subprocess.run(command, check=True, capture_output=True, cwd=layout.secrets)
    command = ["openssl", "genrsa", "-out", "sa.key", "2048"]
    subprocess.run(command, check=True, capture_output=True, cwd=layout.secrets)


def _containerd(layout: Layout) -> str:
    # A machine in a container may not lower the score of its processes for the OOM killer.
    return f"""
version = 2
root = "{layout.folder}/containerd/root"
state = "{layout.folder}/containerd/state"
[grpc]
  address = "{layout.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.folder}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "{loopback.ADDRESS}"
  sandbox_image = "{oci.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{layout.debian}/usr/sbin/runc"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{layout.debian}/usr/lib/cni"
    conf_dir = "{layout.folder}/cni"
"""


def _kubelet_configuration(layout: Layout) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": loopback.ADDRESS,
        "port": layout.ports["kubelet"],
        "readOnlyPort": 0,
        "healthzBindAddress": loopback.ADDRESS,
        "healthzPort": layout.ports["kubelet-health"],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.secrets / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{layout.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "podLogsDir": str(layout.folder / "pod-logs"),
        "volumePluginDir": str(layout.folder / "volume-plugins"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [loopback.ADDRESS],
        "resolvConf": str(layout.folder / "resolv.conf"),
        "staticPodPath": "",
        # The machine's disk is not the node's to clean.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 250,
    }


def _egress_configuration(layout: Layout) -> dict[str, object]:
    transport = {"uds": {"udsName": str(layout.egress)}}
    connection = {"proxyProtocol": "HTTPConnect", "transport": transport}
    return {
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": connection}],
    }
