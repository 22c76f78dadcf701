"""What can be wrong with tunnels; each message names cause and remedy."""


class TunnelError(Exception):
    """The tunnels can't be held, and trying again would not help."""


class HostKeyError(TunnelError):
    """The host's key is unknown, revoked, or another one than the known one."""


class LoginError(TunnelError):
    """The host takes none of our keys."""


class PortTakenError(TunnelError):
    """Other processes listen on local ports that are ours."""


class AlreadyUpError(TunnelError):
    """Another process holds the tunnels of this home."""


class UnreachableError(TunnelError):
    """The host doesn't answer, or the connection broke: this may pass."""
