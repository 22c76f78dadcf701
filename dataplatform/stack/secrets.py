"""The secrets that servers are started with, read from Vault by an AppRole of their own."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from dataplatform.stack.layout import Layout, Plan, StackError

if TYPE_CHECKING:
    import hvac

MOUNT: Final = "dataplatform"
_PATIENCE_SECONDS: Final = 60.0
"""After a start of the machine, all servers start at once, and Vault may be the last to answer."""


class ServerSecrets:
    """Reads secrets with the rights of the servers' starter."""

    def __init__(self, layout: Layout, plan: Plan) -> None:
        self._layout = layout
        self._plan = plan
        self._client: hvac.Client | None = None

    def read(self, path: str) -> Mapping[str, str]:
        """Return a secret, waiting up to a minute for Vault to answer.

        Raises:
            StackError: Vault doesn't answer, refuses, or has no such secret.
        """
        from hvac.exceptions import VaultError
        from requests.exceptions import RequestException

        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                answer = self._login().secrets.kv.v2.read_secret_version(
                    path=path, mount_point=MOUNT, raise_on_deleted_version=True
                )
                return answer["data"]["data"]
            except (VaultError, RequestException, OSError) as error:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"Vault at {self._plan.address('vault')} gives no secret {path}:"
                        f" {type(error).__name__}. Remedy: dp stack status; dp stack logs vault."
                    ) from error
            time.sleep(1.0)

    def _login(self) -> "hvac.Client":
        import hvac

        if self._client is None:
            client = hvac.Client(url=self._plan.address("vault"), timeout=10)
            secret_id = self._layout.servers_secret_id.read_text().strip()
            client.auth.approle.login(self._plan.servers_role_id, secret_id)
            self._client = client
        return self._client
