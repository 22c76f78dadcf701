"""Whom the tunnels trust, and by which keys they log in: against a real sshd and a real agent."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplatform_tests.infra.tunnels.conftest import Held, Page, gateway_of, to
from dataplatform_tests.infra.tunnels.sshd import Sshd, fingerprint, make_key
from infra.tunnels.errors import HostKeyError, LoginError, TunnelError
from infra.tunnels.gateway import Gateway
from infra.tunnels.routes import Route

pytestmark = pytest.mark.stack

Hold = Callable[..., Held]


@pytest.fixture
def route(make_page: Callable[..., Page]) -> Route:
    return to(make_page("grafana"))


def refused(held: Held, sshd: Sshd) -> HostKeyError:
    """The error of a host whose key is not trusted, to which nobody tried to log in."""
    error = held.failure()
    assert isinstance(error, HostKeyError)
    assert "Accepted" not in sshd.log.read_text()
    assert "Failed" not in sshd.log.read_text()
    return error


def test_an_unknown_host_is_named_with_its_fingerprint_and_what_to_do(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path
) -> None:
    known = ssh_home / "known_hosts"
    known.unlink()
    text = str(refused(hold(gateway_of(sshd), route), sshd))
    assert "is not known" in text
    assert fingerprint(sshd.host_key) in text
    # What the remedy says works.
    remedy = text.rsplit("`", 2)[1]
    assert remedy.startswith("ssh-keyscan")
    subprocess.run(remedy.replace("~", str(ssh_home.parent)), shell=True, check=True)  # noqa: S602
    assert hold(gateway_of(sshd), route).is_healthy()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_another_key_than_the_known_one_ends_it(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path, kind: str
) -> None:
    known = fingerprint(sshd.host_key)
    sshd.kill()
    make_key(sshd.host_key, kind)
    sshd.log.write_text("")
    sshd.start()
    text = str(refused(hold(gateway_of(sshd), route), sshd))
    assert "ANOTHER KEY" in text
    assert known in text
    assert f"`ssh-keygen -R '[127.0.0.1]:{sshd.port}'`" in text


@pytest.mark.parametrize("file", ["none", "/dev/null"])
def test_the_configuration_can_not_switch_the_check_off(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path, file: str
) -> None:
    (ssh_home / "known_hosts").unlink()
    (ssh_home / "config").write_text(
        f"Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile {file}\n"
    )
    refused(hold(gateway_of(sshd), route), sshd)


def test_a_hashed_file_of_known_hosts_is_read(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path
) -> None:
    known = ssh_home / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True)
    assert "127.0.0.1" not in known.read_text()
    assert hold(gateway_of(sshd), route).is_healthy()


def test_a_file_of_known_hosts_that_is_none_is_named(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path
) -> None:
    (ssh_home / "known_hosts").write_text("nonsense\n")
    error = hold(gateway_of(sshd), route).failure()
    assert type(error) is TunnelError
    assert str(ssh_home / "known_hosts") in str(error)


def test_a_refused_key_is_told_and_no_password_is_tried(
    sshd: Sshd, hold: Hold, route: Route
) -> None:
    sshd.authorized_keys.write_text("")
    error = hold(gateway_of(sshd), route).failure()
    assert isinstance(error, LoginError)
    assert "ssh-copy-id" in str(error)
    assert "password" not in sshd.log.read_text()


def test_a_key_with_a_passphrase_wants_the_agent(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path
) -> None:
    locked = make_key(ssh_home / "id_ed25519", passphrase="long enough")
    sshd.authorized_keys.write_text(locked.with_name("id_ed25519.pub").read_text())
    for identity in (None, locked):
        error = hold(gateway_of(sshd, identity), route).failure()
        assert isinstance(error, LoginError)
        assert "`ssh-add`" in str(error)


def test_a_file_that_holds_no_key_is_named(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path
) -> None:
    for name in ("absent", "known_hosts"):
        error = hold(gateway_of(sshd, ssh_home / name), route).failure()
        assert type(error) is TunnelError
        assert "--identity" in str(error)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """A real agent; give it a key, whose file it needs no longer."""
    address = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(address))

    def add(key: Path) -> None:
        while not address.exists():
            assert process.poll() is None
        subprocess.run(["ssh-add", "-q", str(key)], check=True)

    yield add
    os.kill(process.pid, signal.SIGTERM)
    process.wait(10)


def test_a_key_of_the_agent_logs_in(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path, agent: Callable[[Path], None]
) -> None:
    key = ssh_home / "id_ed25519"
    agent(key)
    key.unlink()
    assert hold(gateway_of(sshd), route).is_healthy()


def test_the_identity_named_is_the_one_that_a_full_agent_offers(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path, agent: Callable[[Path], None]
) -> None:
    key = ssh_home / "id_ed25519"
    for number in range(7):
        agent(make_key(ssh_home / f"other-{number}"))
    agent(key)
    error = hold(gateway_of(sshd), route).failure()
    assert isinstance(error, LoginError)  # sshd hangs up after six.
    assert "--identity" in str(error)
    key.unlink()
    assert hold(gateway_of(sshd, key), route).is_healthy()


def test_a_jump_of_the_configuration_is_made(
    make_sshd: Callable[..., Sshd], hold: Hold, route: Route, ssh_home: Path
) -> None:
    host, jump = make_sshd(), make_sshd()
    (ssh_home / "config").write_text(
        f"Host 127.0.0.1\n  ProxyJump {jump.user}@localhost:{jump.port}\n"
        f"Host localhost\n  HostKeyAlias 127.0.0.1\n"
    )
    assert hold(gateway_of(host), route).is_healthy()
    assert "Accepted publickey" in jump.log.read_text()


def test_a_host_may_be_a_name_of_the_configuration(
    sshd: Sshd, hold: Hold, route: Route, ssh_home: Path
) -> None:
    (ssh_home / "config").write_text(
        f"Host proxmox\n  HostName 127.0.0.1\n  HostKeyAlias 127.0.0.1\n  Port {sshd.port}\n"
    )
    assert hold(Gateway("proxmox", sshd.port, sshd.user), route).is_healthy()
