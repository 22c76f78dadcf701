"""The specification as types: `load_spec` reads, overlays and checks it."""

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.spec.errors import SpecError

DIRECTORY: Final = Path(__file__).parent
REFERENCE: Final = DIRECTORY / "cluster.yaml"
REFERENCE_PROFILE: Final = "reference"

Role = Literal["control_plane", "worker"]
Label = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")]
SdnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,7}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Gib = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(ge=1.0, le=100.0)]
_NAME_LENGTH: Final = 63


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Host(_Part):
    """The Proxmox VE host.

    Attributes:
        address: where its API and its SSH server answer.
        api_address: where its API is reached, if elsewhere: 127.0.0.1 through an SSH tunnel.
        api_port: of the API.
        node: its name within Proxmox.
        fingerprint: SHA-256 of its certificate; None checks it against known authorities.
        authority: file of the certificate of an authority of one's own.
        ssh_user: who logs in to it; the machines are reached through it.
        ssh_port: of its SSH server.
        memory_gib: what Linux has, for planning without the host.
        reserved_gib: what Proxmox itself keeps of it.
        disk_gib: its disk, for planning without the host.
        threads: of its CPU, for planning without the host.
        cpu_level: of its CPU, for planning without the host.
    """

    address: str = Field(min_length=1)
    api_address: str | None = None
    api_port: Port = 8006
    node: Label
    fingerprint: str | None = Field(None, pattern=r"^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$")
    authority: str | None = None
    ssh_user: str = "root"
    ssh_port: Port = 22
    memory_gib: Gib
    reserved_gib: int = Field(8, ge=0)
    disk_gib: Gib
    threads: int | None = Field(None, ge=1)
    cpu_level: Literal["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"] = "x86-64-v1"


class Image(_Part):
    """The cloud image that disks are made from.

    Attributes:
        url: where the host downloads it.
        checksum_algorithm: of `checksum`.
        checksum: what the download has to have.
    """

    url: str = Field(pattern=r"^https?://[^\s]+/[^/\s]+\.(qcow2|img|raw)$")
    checksum_algorithm: Literal["sha256", "sha384", "sha512"]
    checksum: str = Field(pattern=r"^[0-9a-f]{64,128}$")

    @property
    def file_name(self) -> str:
        """Its name on the host: Proxmox imports `.qcow2` and `.raw`, and `.img` is mostly qcow2."""
        return re.sub(r"\.img$", ".qcow2", self.url.rsplit("/", 1)[1])

    @model_validator(mode="after")
    def _checksum_has_its_length(self) -> Self:
        digits = int(self.checksum_algorithm.removeprefix("sha")) // 4
        if len(self.checksum) != digits:
            raise ValueError(f"a {self.checksum_algorithm} checksum has {digits} hex digits")
        return self


class Firewall(_Part):
    """What is reachable of the host from outside.

    Attributes:
        enabled: whether Proxmox's firewall is switched on.
        open_ports: TCP ports open to everyone.
        management: networks from which Proxmox's UI and API are reachable.
    """

    enabled: bool = True
    open_ports: tuple[Port, ...] = (22,)
    management: tuple[IPv4Network, ...] = ()


class Network(_Part):
    """The internal network of the machines.

    Attributes:
        bridge: name of the vnet, which is a bridge on the host.
        zone: the SDN zone that it is in.
        cidr: addresses of the network.
        gateway: the host's own address in it.
        dns: servers that the machines ask.
        nat: whether the machines reach the internet through the host's address.
        firewall: what is reachable of the host from outside.
    """

    bridge: SdnName
    zone: SdnName
    cidr: IPv4Network
    gateway: IPv4Address
    dns: tuple[IPv4Address, ...] = Field(min_length=1)
    nat: bool = True
    firewall: Firewall = Firewall()

    @model_validator(mode="after")
    def _gateway_is_inside(self) -> Self:
        if self.gateway not in self.cidr:
            raise ValueError(f"gateway {self.gateway} is not in {self.cidr}")
        return self


class Storage(_Part):
    """Storages of the host, by their Proxmox names.

    Attributes:
        disks: holds the machines' disks (content `images`).
        images: holds the downloaded cloud image (content `import`).
    """

    disks: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9\-_.]*$")
    images: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9\-_.]*$")


class Pool(_Part):
    """Machines that are alike.

    Attributes:
        prefix: of their names; their number follows, from 1.
        role: what they are in the cluster.
        count: the highest number.
        without: numbers that are left out, such as that of a worker removed from the middle.
        vcpu: virtual CPUs of each.
        memory_gib: of each.
        floor_gib: what ballooning leaves of it at least; None: no ballooning.
        disk_gib: of each.
        first_ip: of number 1; the others follow.
        first_vmid: of number 1; the others follow.
    """

    prefix: Annotated[str, Field(pattern=r"^[a-z][-a-z0-9]{0,50}$")]
    role: Role
    count: int = Field(ge=0)
    without: tuple[int, ...] = ()
    vcpu: int = Field(ge=1, le=512)
    memory_gib: Gib
    floor_gib: Gib | None = None
    disk_gib: Gib
    first_ip: IPv4Address
    first_vmid: int = Field(ge=100, le=999_999_999)

    @model_validator(mode="after")
    def _floor_is_below_memory(self) -> Self:
        if self.floor_gib is not None and self.floor_gib > self.memory_gib:
            raise ValueError(f"floor_gib {self.floor_gib} is above memory_gib {self.memory_gib}")
        if stray := [n for n in self.without if not 1 <= n <= self.count]:
            raise ValueError(f"without names {stray}, but there are 1 to {self.count}")
        return self


class Overcommit(_Part):
    """What may be promised beyond what there is, as promised / usable; 1.0 is nothing."""

    memory: Ratio = 1.0
    vcpu: Ratio = 4.0
    disk: Ratio = 1.0


class Ssh(_Part):
    """Who gets into the machines: by key only.

    Attributes:
        user: the account that cloud-init makes.
        public_keys: keys in OpenSSH's form.
        public_key_files: files that hold one key a line.
    """

    user: str = Field("dp", pattern=r"^[a-z_][-a-z0-9_]{0,31}$")
    public_keys: tuple[str, ...] = ()
    public_key_files: tuple[str, ...] = ()

    def keys(self) -> tuple[str, ...]:
        """Return all public keys, without their doubles.

        Raises:
            SpecError: a file is missing, a key is none, or there is no key.
        """
        lines = [*self.public_keys, *(line for f in self.public_key_files for line in _lines(f))]
        found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
        for key in found:
            if not re.match(r"^(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/]+=*( .*)?$", key):
                raise SpecError("ssh", f"{key[:20]!r}… is no public key", "name the file *.pub")
        if not found:
            raise SpecError(
                "ssh", "no public key is given, so nobody gets in", "set ssh.public_keys"
            )
        return found


def _lines(file: str) -> list[str]:
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        cause = f"{path} can't be read ({error.strerror})"
        remedy = "ssh-keygen -t ed25519, or name another file"
        raise SpecError("ssh.public_key_files", cause, remedy) from error
    return [line for line in text.splitlines() if not line.startswith("#")]


class Kubernetes(_Part):
    """What the cluster is installed with.

    Attributes:
        version: of Kubernetes.
        pod_cidr: addresses of pods.
        service_cidr: addresses of services.
        load_balancer: how nodes reach the API servers.
        virtual_ip: the address that kube-vip carries.
        registry_node_port: the private registry's port on every node.
        storage_path: where the default storage class keeps its volumes on a node.
        system_reserved_mib: what Kubernetes leaves to each node's system.
    """

    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    pod_cidr: IPv4Network
    service_cidr: IPv4Network
    load_balancer: Literal["local", "kube-vip"] = "local"
    virtual_ip: IPv4Address | None = None
    registry_node_port: int = Field(30500, ge=30000, le=32767)
    storage_path: str = Field("/opt/local-path-provisioner", pattern=r"^/")
    system_reserved_mib: int = Field(512, ge=0)

    @model_validator(mode="after")
    def _kube_vip_has_its_address(self) -> Self:
        if (self.load_balancer == "kube-vip") != (self.virtual_ip is not None):
            raise ValueError("virtual_ip belongs to load_balancer kube-vip, and it needs one")
        return self


class Tunnel(_Part):
    """A port of this machine that leads to a port of a node.

    Attributes:
        name: what is behind it.
        local_port: on 127.0.0.1.
        port: on the node, such as a NodePort.
        node: the machine, or the host by `host.node`; None: any machine that answers.
        path: of the page to open.
        scheme: of its URL.
    """

    name: Label
    local_port: Port
    port: Port
    node: str | None = None
    path: str = Field("/", pattern=r"^/")
    scheme: Literal["http", "https"] = "http"

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"{self.scheme}://127.0.0.1:{self.local_port}{self.path}"


class Machine(_Part):
    """One virtual machine, as the pools describe it.

    Attributes:
        name: its name and host name.
        pool: which pool it is of.
        role: what it is in the cluster.
        vmid: its number in Proxmox.
        ip: its address.
        vcpu: virtual CPUs.
        memory_mib: memory.
        floor_mib: what ballooning leaves of it at least; None: no ballooning.
        disk_gib: size of its disk.
    """

    name: str
    pool: str
    role: Role
    vmid: int
    ip: IPv4Address
    vcpu: int
    memory_mib: int
    floor_mib: int | None
    disk_gib: int

    @property
    def assured_mib(self) -> int:
        """The memory that it has in any case."""
        return self.memory_mib if self.floor_mib is None else self.floor_mib

    @property
    def balloon_mib(self) -> int:
        """What ballooning may take from it, invisible to Kubernetes."""
        return self.memory_mib - self.assured_mib


class ClusterSpec(_Part):
    """The whole specification.

    Attributes:
        name: tag of every machine that belongs to it.
        host: the Proxmox VE host.
        image: what disks are made from.
        network: the machines' network.
        storage: where disks and images are.
        pools: the machines, by the pool's name.
        cpu_type: the CPU that machines see.
        overcommit: what may be promised beyond what there is.
        ssh: who gets in.
        kubernetes: what the cluster is installed with.
        tunnels: the ways in from outside.
    """

    name: Label
    host: Host
    image: Image
    network: Network
    storage: Storage
    pools: dict[Label, Pool] = Field(min_length=1)
    cpu_type: str = Field("host", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    overcommit: Overcommit = Overcommit()
    ssh: Ssh
    kubernetes: Kubernetes
    tunnels: tuple[Tunnel, ...] = ()

    def machines(self) -> tuple[Machine, ...]:
        """Return the machines in the order of pools and numbers."""
        return tuple(
            machine for name, pool in self.pools.items() for machine in _machines(name, pool)
        )

    @model_validator(mode="after")
    def _cpu_type_is_one(self) -> Self:
        if self.cpu_type == "x86-64-v1":
            raise ValueError(
                "cpu_type: Proxmox has no x86-64-v1; kvm64 is that level, host the CPU's"
            )
        return self

    @model_validator(mode="after")
    def _machines_do_not_clash(self) -> Self:
        machines = self.machines()
        for key in ("name", "vmid", "ip"):
            for value, first, second in _twice([(getattr(m, key), m.name) for m in machines]):
                raise ValueError(f"{first} and {second} have the same {key} {value}")
        for machine in machines:
            _check_address(self.network, machine)
            if len(machine.name) > _NAME_LENGTH:
                raise ValueError(f"{machine.name} is longer than {_NAME_LENGTH} characters")
        return self

    @model_validator(mode="after")
    def _networks_do_not_overlap(self) -> Self:
        networks = {
            "network.cidr": self.network.cidr,
            "kubernetes.pod_cidr": self.kubernetes.pod_cidr,
            "kubernetes.service_cidr": self.kubernetes.service_cidr,
        }
        named = list(networks.items())
        for n, (name, network) in enumerate(named):
            for other, another in named[n + 1 :]:
                if network.overlaps(another):
                    raise ValueError(f"{name} {network} and {other} {another} overlap")
        vip = self.kubernetes.virtual_ip
        if vip and (vip not in self.network.cidr or vip in {m.ip for m in self.machines()}):
            raise ValueError(f"virtual_ip {vip} is not a free address of {self.network.cidr}")
        return self

    @model_validator(mode="after")
    def _tunnels_lead_somewhere(self) -> Self:
        for key in ("name", "local_port"):
            for value, first, second in _twice([(getattr(t, key), t.name) for t in self.tunnels]):
                raise ValueError(f"tunnels {first} and {second} have the same {key} {value}")
        names = {self.host.node, *(machine.name for machine in self.machines())}
        for tunnel in self.tunnels:
            if tunnel.node is not None and tunnel.node not in names:
                raise ValueError(
                    f"tunnel {tunnel.name} leads to {tunnel.node}, which is no machine"
                )
        return self


def _machines(name: str, pool: Pool) -> Iterator[Machine]:
    for number in range(1, pool.count + 1):
        if number not in pool.without:
            yield Machine(
                name=f"{pool.prefix}{number}",
                pool=name,
                role=pool.role,
                vmid=pool.first_vmid + number - 1,
                ip=pool.first_ip + (number - 1),
                vcpu=pool.vcpu,
                memory_mib=pool.memory_gib * 1024,
                floor_mib=None if pool.floor_gib is None else pool.floor_gib * 1024,
                disk_gib=pool.disk_gib,
            )


def _twice(pairs: list[tuple[object, str]]) -> Iterator[tuple[object, str, str]]:
    seen: dict[object, str] = {}
    for value, owner in pairs:
        if value in seen:
            yield value, seen[value], owner
        seen[value] = owner


def _check_address(network: Network, machine: Machine) -> None:
    edges = (network.cidr.network_address, network.cidr.broadcast_address, network.gateway)
    if machine.ip not in network.cidr or machine.ip in edges:
        raise ValueError(f"{machine.name}'s address {machine.ip} is no free one of {network.cidr}")


def profiles() -> tuple[str, ...]:
    """Return the names of the profiles that there are."""
    return (
        REFERENCE_PROFILE,
        *sorted(file.stem for file in (DIRECTORY / "profiles").glob("*.yaml")),
    )


def load_spec(path: Path = REFERENCE, profile: str = REFERENCE_PROFILE) -> ClusterSpec:
    """Read a specification and lay a profile over it.

    Args:
        path: the file.
        profile: one of `profiles()`; `reference` leaves the file as it is.

    Raises:
        SpecError: a file can't be read, or what it says can't be.
    """
    content = _read(path)
    if profile != REFERENCE_PROFILE:
        if profile not in profiles():
            raise SpecError(f"--profile {profile}", "unknown", f"one of {', '.join(profiles())}")
        content = _overlaid(content, _read(DIRECTORY / "profiles" / f"{profile}.yaml"))
    try:
        return ClusterSpec.model_validate(content)
    except ValidationError as error:
        raise _spec_error(path, profile, error) from error


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            str(path), f"can't be read ({error.strerror})", "name it by --spec"
        ) from error
    except yaml.YAMLError as error:
        raise SpecError(str(path), f"is no YAML: {error}", "mend the line named") from error
    if not isinstance(content, dict):
        raise SpecError(str(path), "holds no keys", "begin from infra/spec/cluster.yaml")
    return content


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over`; what is a mapping in both is merged."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        merge = isinstance(value, dict) and isinstance(below, dict)
        result[key] = _overlaid(below, value) if merge else value
    return result


def _spec_error(path: Path, profile: str, error: ValidationError) -> SpecError:
    """Return pydantic's complaints, each with its key, as one error."""
    where = str(path) if profile == REFERENCE_PROFILE else f"{path} with profile {profile}"
    said = "; ".join(_complaint(one["loc"], one["msg"]) for one in error.errors(include_url=False))
    return SpecError(where, said, "mend the keys named; infra/spec/model.py describes each")


def _complaint(keys: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{'.'.join(map(str, keys))}: {text}" if keys else text
