"""What a build has to read, from metadata alone, and how its transformation reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from string import Formatter
from typing import TYPE_CHECKING, Any

from pyiceberg.catalog import Catalog
from pyiceberg.table.snapshots import Snapshot

from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.inspect import live_rows
from dataplatform.lake.manifest import Arrival, Cursor, Manifest, Origin, RawZone
from dataplatform.lake.records import by_endpoint
from dataplatform.lake.schema import identifier, load_table
from dataplatform.lake.spec import CATALOG, TableSpec
from dataplatform.lake.state import NO_DAYS, TableState, changed_since, published_state

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from dataplatform.lake.place import LakePlace


@dataclass(frozen=True)
class Plan:
    """What one build of one table has to read.

    Args:
        spec: the table.
        base: the published snapshot that the build starts from; None, an empty table.
        state: what the table knows.
        rows: how many are published.
        arrivals: raw slots not read yet.
        manifests: what those slots hold.
        upstream: the snapshot of each upstream table that will be read.
        changed: first and last changed day of each upstream table.
        rebuild: all raw slots are read again and the result replaces the table.
        listed_at: when the arrivals were listed; what comes later is not among them.
    """

    spec: TableSpec
    base: int | None
    state: TableState
    listed_at: datetime
    rows: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    upstream: dict[str, int] = field(default_factory=dict)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    rebuild: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether an input changed since the table was built."""
        return bool(self.arrivals) or any(days != NO_DAYS for days in self.changed.values())

    @property
    def replaced(self) -> tuple[str, str] | None:
        """First and last day of which the new rows replace all published ones; None: none."""
        if self.spec.replace_days is None:
            return None
        first = min(first for first, _ in self.changed.values())
        last = date.fromisoformat(max(last for _, last in self.changed.values()))
        after = timedelta(days=self.spec.replace_days)
        return first, (min(last, date.max - after) + after).isoformat()


@dataclass(frozen=True)
class Lake:
    """What a build works on: raw files, catalog, and the declared endpoints by name."""

    zone: RawZone
    catalog: Catalog
    endpoints: Mapping[str, Endpoint]
    origin: Origin

    @classmethod
    def at(cls, place: "LakePlace", endpoints: Mapping[str, Endpoint]) -> "Lake":
        """Return the lake that lies at a place; opens its catalog."""
        return cls(place.raw_zone, place.open_catalog(), endpoints, place.origin)

    def plan(self, spec: TableSpec) -> Plan:
        """Compare the table's state with its inputs; reads metadata only."""
        listed_at = datetime.now(UTC)
        head, state, outdated = self._known(spec)
        pairs = self._pairs(spec)
        arrivals = self.zone.arrivals(state.cursor, pairs) if pairs else []
        manifests = [self._manifest(arrival) for arrival in arrivals]
        rebuild = outdated or _come_late(spec, state, manifests)
        if rebuild and pairs:
            arrivals = self.zone.arrivals(Cursor(), pairs)
            manifests = [self._manifest(arrival) for arrival in arrivals]
        upstream, changed = self._upstream(spec, {} if outdated else state.upstream)
        base = head.snapshot_id if head else None
        rows = live_rows(head) if head else 0
        return Plan(
            spec, base, state, listed_at, rows, arrivals, manifests, upstream, changed, rebuild
        )

    def is_behind(self, spec: TableSpec) -> bool:
        """Whether a plan of the table would have something to do; one unread slot is enough."""
        _, state, outdated = self._known(spec)
        pairs = self._pairs(spec)
        if outdated or (pairs and self.zone.arrivals(state.cursor, pairs, limit=1)):
            return True
        _, changed = self._upstream(spec, state.upstream)
        return any(days != NO_DAYS for days in changed.values())

    def _known(self, spec: TableSpec) -> tuple[Snapshot | None, TableState, bool]:
        """Return the published snapshot, its state, and whether another version made its rows."""
        table = load_table(self.catalog, spec.name)
        head = table.current_snapshot() if table else None
        state = published_state(table) if table else TableState()
        return head, state, head is not None and state.version != spec.version

    def _pairs(self, spec: TableSpec) -> set[tuple[str, str]]:
        return {(self.endpoints[name].source, name) for name in spec.endpoints}

    def _manifest(self, arrival: Arrival) -> Manifest:
        manifest = self.zone.manifest(arrival.slot)
        if manifest is None:
            raise FileNotFoundError(f"manifest of {arrival.slot.folder} vanished while planning")
        return manifest

    def _upstream(
        self, spec: TableSpec, seen: Mapping[str, int]
    ) -> tuple[dict[str, int], dict[str, tuple[str, str]]]:
        snapshots, changed = {}, {}
        for name in spec.upstream:
            table = load_table(self.catalog, name)
            head = table.current_snapshot() if table else None
            if table is None or head is None:
                changed[name] = NO_DAYS
                continue
            snapshots[name] = head.snapshot_id
            changed[name] = changed_since(table, seen.get(name))
        return snapshots, changed


def _come_late(spec: TableSpec, state: TableState, manifests: list[Manifest]) -> bool:
    """Whether a listing was fetched before one that the table has applied."""
    newest = state.newest if spec.in_order else None
    return newest is not None and any(manifest.fetched_at <= newest for manifest in manifests)


@dataclass
class SparkInputs:
    """The inputs of one transformation (see `dataplatform.lake.spec.Inputs`)."""

    plan: Plan
    lake: Lake
    spark: "SparkSession"
    parsed: Callable[[str, list[Manifest]], "DataFrame"]

    def sql(self, query: str, **values: "DataFrame | str | float") -> "DataFrame":
        """Run Spark SQL; `{name}` stands for a value, an endpoint, a table, or `{self}`."""
        names = {name for _, name, _, _ in Formatter().parse(query) if name}
        resolved = {n: values[n] if n in values else self._frame(n) for n in names}
        return self.spark.sql(query.replace("{self}", "{self_}"), **_self_renamed(resolved))

    def _frame(self, name: str) -> "DataFrame":
        if name == "self":
            return self.own()
        return self.records(name) if name in self.plan.spec.endpoints else self.table(name)

    def records(self, endpoint: str) -> "DataFrame":
        """Return the endpoint's new records that fit its declaration."""
        return self._parsed(endpoint).where("reject_reason = ''").drop("reject_reason", "record")

    def rejects(self, endpoint: str) -> "DataFrame":
        """Return the endpoint's new records that do not, with the reason."""
        columns = ("raw_key", "record_hash", "record", "reject_reason", "fetched_at", "origin")
        return self._parsed(endpoint).where("reject_reason <> ''").select(*columns)

    def _parsed(self, endpoint: str) -> "DataFrame":
        if endpoint not in self.plan.spec.endpoints:
            raise KeyError(f"{self.plan.spec.name} does not declare the endpoint {endpoint}")
        manifests = by_endpoint(self.plan.manifests).get(endpoint, [])
        return self.parsed(endpoint, manifests)

    def table(self, name: str) -> "DataFrame":
        """Return an upstream table at the snapshot that the plan saw; empty while not built."""
        if name not in self.plan.spec.upstream:
            raise KeyError(f"{self.plan.spec.name} does not declare the upstream table {name}")
        return self._at(name, self.plan.upstream.get(name))

    def own(self) -> "DataFrame":
        """Return the table's own published rows; none when it is rebuilt."""
        return self._at(self.plan.spec.name, None if self.plan.rebuild else self.plan.base)

    def _at(self, name: str, snapshot: int | None) -> "DataFrame":
        if snapshot is not None:
            return version_of(self.spark, name, snapshot)
        table = load_table(self.lake.catalog, name)
        if table is None:
            raise LookupError(f"the table {name} does not exist yet")
        return self.spark.table(f"{CATALOG}.{identifier(name)}").where("false")

    def changed(self, name: str) -> tuple[str, str]:
        """Return the first and last changed day of an upstream table."""
        return self.plan.changed[name]


def _self_renamed(frames: dict[str, Any]) -> dict[str, Any]:
    """`self` can't be a keyword of SparkSession.sql, which is a method."""
    return {("self_" if name == "self" else name): frame for name, frame in frames.items()}


def version_of(spark: "SparkSession", table: str, version: int | str) -> "DataFrame":
    """Return a table as of a snapshot or a branch, with the columns that the table has now.

    In SQL, because the reader's options `snapshot-id` and `branch` are not found in a session
    other than the JVM's first. A snapshot older than a column comes without it: it is null there.
    """
    from pyspark.sql import functions as F

    literal = version if isinstance(version, int) else f"'{version}'"
    name = f"{CATALOG}.{identifier(table)}"
    rows = spark.sql(f"SELECT * FROM {name} VERSION AS OF {literal}")
    return rows.select(
        *[
            (F.col(f"`{c.name}`") if c.name in rows.columns else F.lit(None))
            .cast(c.dataType)
            .alias(c.name)
            for c in spark.table(name).schema
        ]
    )
