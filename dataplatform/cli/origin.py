"""Live or recorded: which lake `dp run` builds, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dataplatform.cli.console import UserError
from dataplatform.lake.manifest import Origin
from dataplatform.profiles import Settings, lake_place

if TYPE_CHECKING:
    from dataplatform.resources.coingecko import Reachability


class Wanted(StrEnum):
    """What `dp run --origin` takes."""

    AUTO = "auto"
    LIVE = "live"
    RECORDED = "recorded"


@dataclass(frozen=True)
class Choice:
    """The lake that is built, and the reason as a sentence."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        """Return both as one line."""
        name = "Live data" if self.origin == "live" else "Recorded data"
        return f"{name}: {self.reason}"


def choose_origin(
    wanted: Wanted,
    settings: Settings,
    ping: "Callable[[], Reachability]",
    *,
    asks_api: bool = True,
) -> Choice:
    """Decide which lake to build; the API is asked only where the answer depends on it.

    Args:
        wanted: what the command line says; `auto` leaves it to the setting, then to the API.
        settings: profile and origin in force.
        ping: asks the API whether it is there.
        asks_api: something selected asks the API; tables and views build from what has landed.

    Raises:
        UserError: live data is wanted, or there already, and the API can't be reached; or
            it refuses the key.
    """
    if wanted is Wanted.AUTO and settings.origin is not None:
        wanted, reason = Wanted(settings.origin), "DATAPLATFORM_ORIGIN says so"
    else:
        reason = "asked for by --origin"
    if wanted is Wanted.RECORDED:
        return Choice("recorded", f"the bundled recordings; {reason}.")
    if not asks_api and _live_lake_in_use(settings):
        return Choice("live", "nothing that is selected asks the API.")
    answer = ping()
    if answer.refused:
        cause, _, remedy = answer.detail.partition(" → ")
        raise UserError(
            f"{cause}. Remedy: {remedy}; or build the bundled recordings: dp run --origin recorded."
        )
    if answer.reachable:
        return Choice("live", _sentence(answer.detail))
    cause = f"the CoinGecko API can't be reached ({_cause(answer.detail)})"
    if wanted is Wanted.AUTO:
        if settings.profile == "local" and not _live_lake_in_use(settings):
            return Choice("recorded", f"{cause}, so {_BUNDLED}")
        reason = _why_no_recordings(settings)
    raise UserError(
        f"Live data is wanted ({reason}), but {cause}. Remedy: check the network, or build the"
        " bundled recordings: dp run --origin recorded."
    )


_BUNDLED: Final = "the bundled recordings are used, in a lake of their own."


def _why_no_recordings(settings: Settings) -> str:
    if settings.profile != "local":
        return f"DATAPLATFORM_PROFILE is {settings.profile}"
    return f"the live lake in {settings.home} is in use"


def _live_lake_in_use(settings: Settings) -> bool:
    """Whether recordings would take the place of live data that somebody works with."""
    live = lake_place(settings, "live")
    return live.remembered == "live" or live.holds_data


def _cause(detail: str) -> str:
    """Return what an error of the API client says before its remedy."""
    return detail.partition(" → ")[0].rstrip(".")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
