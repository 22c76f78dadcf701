"""Kubespray's variables, as the specification has them; its other defaults stay as they are.

Kubespray takes a misspelt variable without a word, so a test holds every name to its defaults.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from infra.spec.model import ClusterSpec, Machine

API_PORT: Final = 6443
KUBE_MIB: Final = 256
"""For kubelet and containerd, of each machine."""
_LOOPBACK: Final = ("localhost", "127.0.0.1")


def connection(spec: ClusterSpec, *, direct: bool = False) -> dict[str, Any]:
    """Return how Ansible gets into the machines.

    Args:
        spec: the specification.
        direct: from within their network; else the way leads through the host.
    """
    found: dict[str, Any] = {"ansible_user": spec.ssh.user, "ansible_become": True}
    if not direct:
        jump = f"{spec.host.ssh_user}@{spec.host.address}:{spec.host.ssh_port}"
        found["ansible_ssh_common_args"] = f"-o ProxyJump={jump}"
    return found


def cluster_variables(spec: ClusterSpec) -> dict[str, Any]:
    """Return what all machines of the cluster have in common."""
    wanted = spec.kubernetes
    return {
        "kube_version": wanted.version,
        "kube_pods_subnet": str(wanted.pod_cidr),
        "kube_service_addresses": str(wanted.service_cidr),
        "kube_network_plugin": "calico",
        # IPVS is deprecated in Kubernetes 1.35. Of the two others only iptables answers a NodePort
        # on 127.0.0.1, where containerd asks for the private registry.
        "kube_proxy_mode": "iptables",
        "upstream_dns_servers": [str(address) for address in spec.network.dns],
        "container_manager": "containerd",
        "containerd_registries_mirrors": registry_mirrors(spec),
        "etcd_deployment_type": "host",
        "kube_encrypt_secret_data": True,
        "kube_encryption_algorithm": "secretbox",
        "kubernetes_audit": True,
        "local_path_provisioner_enabled": True,
        "local_path_provisioner_is_default_storageclass": "true",
        "local_path_provisioner_claim_root": wanted.storage_path,
        # Kubespray's default is `latest`, which each new volume would ask the registry for.
        "local_path_provisioner_helper_image_tag": "1.37.0",
        "metrics_server_enabled": True,
        "system_memory_reserved": f"{wanted.system_reserved_mib}Mi",
        **_load_balancer(spec),
    }


def registry_mirrors(spec: ClusterSpec) -> list[dict[str, Any]]:
    """Return containerd's entries for the private registry, which speaks HTTP on a NodePort.

    Each node asks its own port, so no node is in the way of the others. The names are those that
    images get when they are pushed: through a tunnel, from a node, by a control-plane machine's
    address. So what was pushed under a name is pulled under it.
    """
    port = spec.kubernetes.registry_node_port
    here = f"http://127.0.0.1:{port}"
    mirror = {"host": here, "capabilities": ["pull", "resolve"], "skip_verify": False}
    return [
        {"prefix": name, "server": here, "mirrors": [mirror.copy()]}
        for name in dict.fromkeys(_registry_names(spec, port))
    ]


def _registry_names(spec: ClusterSpec, port: int) -> Iterator[str]:
    local_ports = [tunnel.local_port for tunnel in spec.tunnels if tunnel.port == port]
    yield from (f"{host}:{number}" for number in (port, *local_ports) for host in _LOOPBACK)
    yield from (f"{m.ip}:{port}" for m in spec.machines() if m.role == "control_plane")
    if spec.kubernetes.virtual_ip:
        yield f"{spec.kubernetes.virtual_ip}:{port}"


def _load_balancer(spec: ClusterSpec) -> Mapping[str, Any]:
    if spec.kubernetes.load_balancer == "local":
        return {"loadbalancer_apiserver_localhost": True, "loadbalancer_apiserver_type": "nginx"}
    address = str(spec.kubernetes.virtual_ip)
    return {
        "kube_vip_enabled": True,
        "kube_vip_controlplane_enabled": True,
        "kube_vip_arp_enabled": True,
        "kube_vip_address": address,
        "loadbalancer_apiserver": {"address": address, "port": API_PORT},
        "loadbalancer_apiserver_localhost": False,
    }


def pool_variables(machine: Machine) -> dict[str, Any]:
    """Return what the machines of one pool have in common, by one of them.

    The kubelet sees all memory that a machine starts with. What ballooning may take from it is
    kept out of what Kubernetes hands out, as if the kubelet itself used it.
    """
    return {"kube_memory_reserved": f"{KUBE_MIB + machine.balloon_mib}Mi"}


def host_variables(machine: Machine) -> dict[str, Any]:
    """Return what is of one machine alone."""
    found = {"ansible_host": str(machine.ip), "ip": str(machine.ip)}
    # Without it, Kubespray numbers the members anew when one leaves.
    return found | ({"etcd_member_name": machine.name} if machine.role == "control_plane" else {})
