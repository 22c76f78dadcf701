"""Kubernetes logins: Vault asks the API server for a TokenReview, which is faked in its own shape.

The official client's models read the request and write the answer, so both have the API's fields.
"""

import base64
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from kubernetes.client import (
    ApiClient,
    V1TokenReview,
    V1TokenReviewSpec,
    V1TokenReviewStatus,
    V1UserInfo,
)

from dataplatform.resources.vault import VaultResource
from dataplatform.vault.bootstrap import bootstrap
from dataplatform.vault.errors import VaultForbiddenError, VaultLoginError, VaultNotFoundError
from dataplatform.vault.layout import Kubernetes, platform_layout
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.test_tls import certificate

pytestmark = pytest.mark.stack

REVIEWER = "jwt-of-the-reviewer"
API = ApiClient()


class ApiServer(ThreadingHTTPServer):
    """Reviews tokens as the Kubernetes API does: those it issued are authenticated."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Reviews)
        self.issued: dict[str, str] = {}
        self.asked: list[V1TokenReview] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def issue(self, account: str, namespace: str = "dataplatform", audience: str = "vault") -> str:
        user = f"system:serviceaccount:{namespace}:{account}"
        claims = {
            "iss": "https://kubernetes.default.svc",
            "aud": [audience],
            "sub": user,
            "iat": int(time.time()) - 5,
            "nbf": int(time.time()) - 5,
            "exp": int(time.time()) + 600,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": account, "uid": "0a1b2c3d"},
            },
        }
        parts = (json.dumps({"alg": "RS256"}), json.dumps(claims), f"signature of {account}")
        token = ".".join(
            base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts
        )
        self.issued[token] = user
        return token

    def review(self, request: V1TokenReview) -> V1TokenReview:
        self.asked.append(request)
        user = self.issued.get(request.spec.token)
        status = (
            V1TokenReviewStatus(
                authenticated=True,
                audiences=request.spec.audiences,
                user=V1UserInfo(username=user, uid="0a1b2c3d", groups=["system:serviceaccounts"]),
            )
            if user
            else V1TokenReviewStatus(authenticated=False, error="token unknown")
        )
        return V1TokenReview(
            api_version="authentication.k8s.io/v1",
            kind="TokenReview",
            spec=request.spec,
            status=status,
        )


class Reviews(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, ApiServer)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        known = self.headers["Authorization"] == f"Bearer {REVIEWER}"
        path_fits = self.path == "/apis/authentication.k8s.io/v1/tokenreviews"
        if not (known and path_fits):
            self.send_error(403)
            return
        request = API.deserialize(SimpleNamespace(data=body.decode()), "V1TokenReview")
        answer = json.dumps(API.sanitize_for_serialization(self.server.review(request))).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def cluster() -> Iterator[ApiServer]:
    with ApiServer() as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pod(cluster: ApiServer, admin: VaultResource, connect: Connect, tmp_path: Path) -> Connect:
    """Return a resource that logs in by a service account's token."""
    authority = certificate(tmp_path, "api-server")[0].read_text()
    kubernetes = Kubernetes(
        host=cluster.url,
        namespace="dataplatform",
        accounts={"platform": ["dagster-code", "dagster"], "trino": ["trino"]},
        ca_certificate=authority.strip(),
        reviewer=lambda: {"token_reviewer_jwt": REVIEWER},
    )
    layout = platform_layout(kubernetes=kubernetes)
    bootstrap(admin.client, layout)
    assert bootstrap(admin.client, layout) == []
    return lambda jwt, role: connect(jwt, auth="kubernetes", role_id=role)


@pytest.mark.parametrize("account", ["dagster-code", "dagster"])
def test_each_service_account_of_a_role_reads_as_it(
    cluster: ApiServer, pod: Connect, account: str
) -> None:
    token = cluster.issue(account)
    resource = pod(token, "platform")
    with pytest.raises(VaultNotFoundError):
        resource.read("minio/platform")
    with pytest.raises(VaultForbiddenError):
        resource.read("minio/trino")
    (asked,) = cluster.asked
    assert isinstance(asked.spec, V1TokenReviewSpec)
    assert (asked.spec.token, asked.spec.audiences) == (token, ["vault"])


@pytest.mark.parametrize(
    ("issued", "role"),
    [
        ({"account": "dagster"}, "trino"),
        ({"account": "dagster", "namespace": "elsewhere"}, "platform"),
        ({"account": "dagster", "audience": "somebody-else"}, "platform"),
        ({"account": "dagster"}, "nobody"),
    ],
)
def test_another_account_namespace_audience_or_role_is_refused(
    cluster: ApiServer, pod: Connect, issued: dict[str, str], role: str
) -> None:
    token = cluster.issue(**issued)
    with pytest.raises(VaultLoginError, match="refused the login by kubernetes") as caught:
        pod(token, role).read("minio/platform")
    assert token not in str(caught.value)


def test_a_token_that_the_cluster_does_not_know_is_refused(
    cluster: ApiServer, pod: Connect
) -> None:
    token = cluster.issue("dagster")
    cluster.issued.clear()
    with pytest.raises(VaultLoginError):
        pod(token, "platform").read("minio/platform")
