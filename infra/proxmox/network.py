"""The machines' bridge with its NAT, and the host's firewall.

The bridge is a vnet of Proxmox's SDN in a zone of type `simple`: what an entry in
/etc/network/interfaces with `post-up iptables` lines does, but made by the API, which takes no such
lines. The firewall opens what is needed first and is switched on last.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from infra.proxmox.api import Api
from infra.proxmox.errors import ForeignChangesError
from infra.proxmox.steps import Call, Change, Operation, Step
from infra.spec.model import ClusterSpec

API_PORT: Final = 8006
_SDN: Final = "cluster/sdn"
_FIREWALL: Final = "cluster/firewall"
_RULE_KEYS: Final = ("type", "action", "proto", "dport", "source", "enable")


@dataclass(frozen=True)
class NetworkState:
    """What the host has of the network.

    Attributes:
        zone: our zone; empty: there is none.
        vnet: our bridge; empty: there is none.
        subnet: its addresses; empty: there are none.
        pending: parts of the SDN that wait to be applied, ours and those of others.
        options: of the firewall.
        rules: of the firewall that are ours, by their comment.
    """

    zone: Mapping[str, Any] = field(default_factory=dict)
    vnet: Mapping[str, Any] = field(default_factory=dict)
    subnet: Mapping[str, Any] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def firewall_on(self) -> bool:
        """Whether the firewall is switched on."""
        return str(self.options.get("enable", 0)) not in ("0", "")

    def digest(self) -> str:
        """Return the SHA-256 of what a plan is made from."""
        parts = (self.zone, self.vnet, self.subnet, self.pending, self.rules)
        seen = (*parts, self.firewall_on, self.options.get("policy_in"))
        text = json.dumps(seen, sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()


def subnet_id(spec: ClusterSpec) -> str:
    """Return the name that Proxmox gives our subnet."""
    return f"{spec.network.zone}-{str(spec.network.cidr).replace('/', '-')}"


def observe_network(api: Api, spec: ClusterSpec) -> NetworkState:
    """Read SDN and firewall."""
    network = spec.network
    zones = api.get(f"{_SDN}/zones", pending=1)
    vnets = api.get(f"{_SDN}/vnets", pending=1)
    vnet = _named(vnets, "vnet", network.bridge)
    subnets = api.get(f"{_SDN}/vnets/{network.bridge}/subnets", pending=1) if vnet else []
    return NetworkState(
        zone=_named(zones, "zone", network.zone),
        vnet=vnet,
        subnet=_named(subnets, "subnet", subnet_id(spec)),
        pending=tuple(
            sorted(
                str(one.get("subnet") or one.get("vnet") or one.get("zone"))
                for one in [*zones, *vnets, *subnets]
                if one.get("state")
            )
        ),
        options=api.get(f"{_FIREWALL}/options") if network.firewall.enabled else {},
        rules=_our_rules(api, spec) if network.firewall.enabled else {},
    )


def _named(listed: Iterable[Mapping[str, Any]], key: str, name: str) -> dict[str, Any]:
    """Return the one of that name, with what is pending of it."""
    for one in listed:
        if one.get(key) == name and one.get("state") != "deleted":
            pending = one.get("pending") or {}
            kept = {k: v for k, v in one.items() if k not in ("pending", "state", "digest")}
            return kept | dict(pending)
    return {}


def _our_rules(api: Api, spec: ClusterSpec) -> dict[str, dict[str, str]]:
    rules = {}
    for rule in api.get(f"{_FIREWALL}/rules"):
        comment = str(rule.get("comment", ""))
        if comment.startswith(f"{spec.name}: "):
            rules[comment] = {key: str(rule[key]) for key in _RULE_KEYS if key in rule}
            rules[comment]["pos"] = str(rule["pos"])
    return rules


def network_steps(spec: ClusterSpec, state: NetworkState) -> Iterator[Step]:
    """Yield what the bridge still needs.

    Raises:
        ForeignChangesError: changes of someone else wait in the SDN, and would be applied with ours.
    """
    network, name = spec.network, f"network {spec.network.bridge}"
    steps = [*_zone(spec, state), *_vnet(spec, state), *_subnet(spec, state)]
    ours = {network.zone, network.bridge, subnet_id(spec)}
    if not steps and not ours & set(state.pending):
        return
    if foreign := [one for one in state.pending if one not in ours]:
        raise ForeignChangesError(
            name,
            f"changes of {', '.join(foreign)} wait in the host's SDN and would be applied with ours",
            "apply or revert them in the UI under Datacenter → SDN",
        )
    yield from steps
    apply = Call(method="PUT", path=_SDN, task="reloadnetworkall")
    # Written by a run that was interrupted: that it is applied is all that is left to show.
    shown = () if steps else (("SDN", "written", "applied"),)
    yield _step("network", name, shown, apply)


def _zone(spec: ClusterSpec, state: NetworkState) -> Iterator[Step]:
    zone = spec.network.zone
    if not state.zone:
        yield _network_step(
            spec, "zones", {"zone": zone, "type": "simple"}, (("zone", "", f"{zone} (simple)"),)
        )
    elif state.zone.get("type") != "simple":
        raise ForeignChangesError(
            f"zone {zone}",
            f"it exists with type {state.zone.get('type')}",
            "choose another network.zone",
        )


def _vnet(spec: ClusterSpec, state: NetworkState) -> Iterator[Step]:
    network = spec.network
    if not state.vnet:
        parameters = {"vnet": network.bridge, "zone": network.zone}
        yield _network_step(spec, "vnets", parameters, (("bridge", "", network.bridge),))
    elif state.vnet.get("zone") != network.zone:
        raise ForeignChangesError(
            f"bridge {network.bridge}",
            f"it exists in the zone {state.vnet.get('zone')}",
            "choose another network.bridge, or name that zone",
        )


def _subnet(spec: ClusterSpec, state: NetworkState) -> Iterator[Step]:
    network = spec.network
    wanted = {"gateway": str(network.gateway), "snat": str(int(network.nat))}
    path = f"vnets/{network.bridge}/subnets"
    if not state.subnet:
        parameters = {"subnet": str(network.cidr), "type": "subnet"} | wanted
        shown = (("addresses", "", str(network.cidr)), ("gateway", "", wanted["gateway"]))
        nat = ("NAT", "", "to the host's address") if network.nat else ("NAT", "", "none")
        yield _network_step(spec, path, parameters, (*shown, nat))
        return
    has = {
        "gateway": str(state.subnet.get("gateway", "")),
        "snat": str(int(state.subnet.get("snat") or 0)),
    }
    changed = tuple((key, has[key], wanted[key]) for key in wanted if has[key] != wanted[key])
    if changed:
        yield _network_step(spec, f"{path}/{subnet_id(spec)}", wanted, changed, method="PUT")


def _network_step(
    spec: ClusterSpec,
    path: str,
    parameters: dict[str, str],
    shown: Iterable[tuple[str, str, str]],
    method: str = "POST",
) -> Step:
    call = Call.model_validate(
        {"method": method, "path": f"{_SDN}/{path}", "parameters": parameters}
    )
    return _step("network", f"network {spec.network.bridge}", shown, call)


def _step(
    operation: Operation, target: str, shown: Iterable[tuple[str, str, str]], call: Call
) -> Step:
    changes = tuple(Change(key=key, before=was, after=will) for key, was, will in shown)
    return Step(operation=operation, target=target, changes=changes, calls=(call,))


def wanted_rules(spec: ClusterSpec) -> dict[str, dict[str, str]]:
    """Return the firewall's rules that are ours, by their comment."""
    firewall = spec.network.firewall
    accept = {"type": "in", "action": "ACCEPT", "proto": "tcp", "enable": "1"}
    rules = {
        f"{spec.name}: port {port} from anywhere": accept | {"dport": str(port)}
        for port in firewall.open_ports
    }
    for source in firewall.management:
        rule = accept | {"dport": str(API_PORT), "source": str(source)}
        rules[f"{spec.name}: Proxmox from {source}"] = rule
    return rules


def firewall_steps(spec: ClusterSpec, state: NetworkState) -> Iterator[Step]:
    """Yield what the firewall still needs: rules first, the switch last."""
    if not spec.network.firewall.enabled:
        return
    wanted, ours = wanted_rules(spec), state.rules
    for comment, rule in wanted.items():
        if comment in ours and {k: ours[comment].get(k) for k in _RULE_KEYS} != {
            k: rule.get(k) for k in _RULE_KEYS
        }:
            yield _rule_step(comment, rule, ours[comment]["pos"])
    new = {comment: rule for comment, rule in wanted.items() if comment not in ours}
    for comment, rule in new.items():
        yield _rule_step(comment, rule, None)
    # Proxmox puts a new rule first, which moves the others down. From the end, so that the positions
    # before stay what they are; after the new ones, so that no way in is shut for a moment.
    stray = {c: int(rule["pos"]) + len(new) for c, rule in ours.items() if c not in wanted}
    for comment, position in sorted(stray.items(), key=lambda item: -item[1]):
        call = Call(method="DELETE", path=f"{_FIREWALL}/rules/{position}")
        yield _step("firewall", "firewall", (("rule", comment, ""),), call)
    yield from _switch(state)


def _rule_step(comment: str, rule: Mapping[str, str], position: str | None) -> Step:
    parameters = {**rule, "comment": comment}
    if position is None:
        call = Call(method="POST", path=f"{_FIREWALL}/rules", parameters=parameters)
    else:
        call = Call(method="PUT", path=f"{_FIREWALL}/rules/{position}", parameters=parameters)
    before = "" if position is None else "changed by hand"
    return _step("firewall", "firewall", (("rule", before, comment),), call)


def _switch(state: NetworkState) -> Iterator[Step]:
    policy = str(state.options.get("policy_in", "DROP"))
    if state.firewall_on and policy == "DROP":
        return
    call = Call(
        method="PUT", path=f"{_FIREWALL}/options", parameters={"enable": "1", "policy_in": "DROP"}
    )
    shown = []
    if not state.firewall_on:
        shown.append(("firewall", "off", "on"))
    if policy != "DROP":
        shown.append(("everything else", policy, "DROP"))
    yield _step("firewall", "firewall", shown or [("firewall", "", "on")], call)
