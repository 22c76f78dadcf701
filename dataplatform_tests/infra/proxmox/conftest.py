from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakepve.certs import make_cert

from dataplatform_tests.infra.proxmox.fake import TOKEN, Proxmox, Serving
from infra.proxmox.api import Api, Endpoint, Patience, Token
from infra.spec.model import REFERENCE, ClusterSpec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMq9FMyA8H8M0 me@laptop"
QUICK = Patience(timeout=10, attempts=4, first_wait=0, longest_wait=0, poll=0, task=5)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pki")
    return make_cert(str(folder), hosts=("127.0.0.1",))[:2]


@pytest.fixture
def serve(certificate: tuple[str, str]) -> Iterator[Callable[[], Proxmox]]:
    """Start hosts, as many as are asked for."""
    with ExitStack() as running:

        def start() -> Proxmox:
            host = Proxmox()
            running.callback(Serving(host, certificate).stop)
            return host

        yield start


@pytest.fixture
def host(serve: Callable[[], Proxmox]) -> Proxmox:
    return serve()


@pytest.fixture
def connect(certificate: tuple[str, str]) -> Iterator[Callable[..., Api]]:
    """Open sessions with a host; other arguments are those of `Api`."""
    with ExitStack() as running:

        def session(host: Proxmox, **arguments: Any) -> Api:
            endpoint = Endpoint("127.0.0.1", host.port, authority=certificate[0])
            token = Token(TOKEN, host.apitokens[TOKEN])
            arguments = {"endpoint": endpoint, "token": token, "patience": QUICK} | arguments
            return running.enter_context(Api(**arguments))

        yield session


@pytest.fixture
def api(host: Proxmox, connect: Callable[..., Api]) -> Api:
    return connect(host)


def make_spec(**keys: Any) -> ClusterSpec:
    """Return the reference with some keys changed; a double underscore goes one level down."""
    content = yaml.safe_load(REFERENCE.read_text())
    content["ssh"] = {"user": "dp", "public_keys": [KEY]}
    for key, value in keys.items():
        *way, last = key.split("__")
        part = content
        for name in way:
            part = part[name]
        part[last] = value
    return ClusterSpec.model_validate(content)


@pytest.fixture
def small() -> ClusterSpec:
    """A master and a worker."""
    return make_spec(pools__masters__count=1, pools__workers__count=1)


@pytest.fixture
def reference() -> ClusterSpec:
    return make_spec()


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """A file of the reference that needs no key file."""
    content = yaml.safe_load(REFERENCE.read_text())
    content["ssh"] = {"user": "dp", "public_keys": [KEY]}
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    return file
