"""The bundled recordings: real answers of the API and real price files, with their licences.

`recordings/index.json` says for each what was asked, when it was recorded and whether it is the
whole answer; `recordings/PROVENANCE.md` where it comes from. Each becomes one committed slot, with
the origin `recorded`; landing them again finds them there.
"""

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from pydantic import BaseModel, ConfigDict, TypeAdapter

from dataplatform.lake.api.client import Response
from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.landing import Landing, commit, raw_file
from dataplatform.lake.manifest import Manifest, RawZone, Slot
from dataplatform.raw.inbox import inbox, land_file

RECORDED = "recorded"
"""The tier of what was not asked by us."""


class Recording(BaseModel):
    """One recorded answer. `recorded_at_from` says how the time is known."""

    model_config = ConfigDict(frozen=True)

    file: str
    endpoint: str
    request: str
    params: dict[str, str]
    status: int
    headers: dict[str, str]
    recorded_at: datetime
    recorded_at_from: str
    complete: bool
    sha256: str

    @property
    def body(self) -> bytes:
        """The body, byte for byte."""
        return (_folder() / self.file).read_bytes()

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.file.rsplit("/", 1)[1]


@cache
def recordings() -> tuple[Recording, ...]:
    """Return every bundled recording, in the order of recording."""
    index = (_folder() / "index.json").read_bytes()
    return TypeAdapter(tuple[Recording, ...]).validate_json(index)


def land_recordings(zone: RawZone, endpoint: Endpoint) -> list[Landing]:
    """Land the recordings of one endpoint, each in a slot of its own."""
    landings = []
    for position, recording in enumerate(r for r in recordings() if r.endpoint == endpoint.name):
        if endpoint == inbox:
            body, at = recording.body, recording.recorded_at
            landings.append(land_file(zone, recording.name, body, at, "recorded", RECORDED))
        else:
            slot = _slot(endpoint, recording, position)
            landings.append(_land(zone, endpoint, recording, slot))
    return landings


def _land(zone: RawZone, endpoint: Endpoint, recording: Recording, slot: Slot) -> Landing:
    present = zone.manifest(slot)
    if present is not None:
        return Landing(present, fetched=False)
    answer = Response(
        recording.body,
        recording.status,
        recording.headers,
        recording.request,
        recording.recorded_at,
    )
    file, unknown = raw_file(zone.store.put, endpoint, slot, "body", recording.params, answer)
    manifest = Manifest(
        slot=slot,
        origin="recorded",
        tier=RECORDED,
        complete=recording.complete,
        fetched_at=recording.recorded_at,
        files=(file,),
        unknown_fields=tuple(sorted(unknown)),
    )
    return commit(zone, manifest)


def _slot(endpoint: Endpoint, recording: Recording, position: int) -> Slot:
    """Return a slot by the second of recording; two were recorded in one second."""
    at = recording.recorded_at.astimezone(UTC)
    name = f"T{at:%H%M%S}-{position:02d}"
    return Slot(source=endpoint.source, endpoint=endpoint.name, day=at.date(), name=name)


def _folder() -> Traversable:
    return files("dataplatform.raw") / "recordings"
