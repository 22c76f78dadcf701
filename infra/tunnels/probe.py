"""Whether something answers behind a tunnel, asked for in the way its user asks: by its URL."""

import asyncio
from typing import Final, Literal

import httpx

from infra.tunnels.forward import Forward

PROBE_SECONDS: Final = 8.0
_SERVER_ERROR: Final = 500

Health = Literal["up", "failing", "down", "waiting"]
"""It answers; it answers with an error of its own; nothing answers; there is no SSH connection."""


def new_client() -> httpx.AsyncClient:
    """Return a client for `probe`."""
    # Certificates are for names that 127.0.0.1 is not, and what is asked is whether anyone answers:
    # the host's key has already said who that is. No proxy of the environment is asked.
    return httpx.AsyncClient(verify=False, trust_env=False, timeout=PROBE_SECONDS)  # noqa: S501


async def probe(client: httpx.AsyncClient, forward: Forward) -> tuple[Health, str]:
    """Return how a tunnel is, and why."""
    try:
        async with (
            asyncio.timeout(PROBE_SECONDS),
            client.stream("GET", forward.route.url) as answer,
        ):
            if answer.status_code >= _SERVER_ERROR:
                return "failing", f"answers {answer.status_code} {answer.reason_phrase}"
            return "up", ""
    except TimeoutError:
        return "down", f"no answer within {PROBE_SECONDS:g} s"
    except httpx.TransportError as error:
        return "down", forward.failure or f"{forward.target}: {error or type(error).__name__}"
