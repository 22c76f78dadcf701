"""What Dagster's events say about a run, as few facts: what was built, what failed, what warns."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dagster import AssetMaterialization, DagsterEvent, EventLogEntry
    from dagster._utils.error import SerializableErrorInfo

UNCHANGED: Final = "unchanged"


@dataclass(frozen=True)
class Built:
    """One materialized asset.

    Attributes:
        group: raw, warehouse or analytics.
        name: the dataset's name.
        rows: records or rows it holds; None where it was not counted.
        change: what the run changed, such as `+7,248 ~3`; `unchanged` where nothing.
        seconds: how long it took.
    """

    group: str
    name: str
    rows: int | None
    change: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """One failed step: what went wrong, and what to do about it."""

    step: str
    cause: str
    remedy: str | None = None


@dataclass(frozen=True)
class Retried:
    """A step that failed and will be tried again, and why."""

    step: str
    cause: str


@dataclass
class RunFacts:
    """Everything noted so far; `note` is fed with each event of the run."""

    built: list[Built] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _since: dict[str, float] = field(default_factory=dict)

    def note(self, entry: "EventLogEntry") -> Built | Failed | Retried | str | None:
        """Take in one event and return what is worth a line; text is about the step at work."""
        event = entry.dagster_event
        if event is None:
            # Dagster's own word on checks of tables that had nothing new.
            idle = "did not yield or return expected outputs" in entry.user_message
            return None if idle else entry.user_message
        step = event.step_key or ""
        kind = event.event_type_value
        if kind == "STEP_START":
            self._since[step] = entry.timestamp
            return readable_step(step)
        if kind == "ASSET_MATERIALIZATION":
            return self._materialized(event, step, entry.timestamp)
        if kind == "STEP_FAILURE":
            self.failed.append(failure_of(event))
            return self.failed[-1]
        if kind == "STEP_UP_FOR_RETRY":
            return _retried(event)
        if kind == "ASSET_CHECK_EVALUATION":
            self._check(event)
        elif kind == "STEP_SKIPPED":
            self.skipped.append(readable_step(step))
        return None

    def _materialized(self, event: "DagsterEvent", step: str, at: float) -> Built:
        found = event.step_materialization_data.materialization
        measured = at - self._since.get(step, at)
        # A step may build many tables: each one's time starts where the one before ended.
        self._since[step] = at
        built = built_of(found, measured)
        self.built.append(built)
        return built

    def _check(self, event: "DagsterEvent") -> None:
        check = event.asset_check_evaluation_data
        if not check.passed:
            name = ".".join(check.asset_key.path)
            rule = f"{name}: {check.description or ''}".strip()
            self.warnings.append(f"{rule}{_figures(check.metadata)} (check {check.check_name})")


def built_of(found: "AssetMaterialization", measured: float) -> Built:
    """Return the facts of one materialization; `measured` seconds where it names none itself."""
    values: dict[str, Any] = {name: value.value for name, value in found.metadata.items()}
    group, name = found.asset_key.path[0], found.asset_key.path[-1]
    seconds = values.get("seconds", measured)
    return Built(group, name, values.get("dagster/row_count"), _change(group, values), seconds)


def _change(group: str, values: dict[str, Any]) -> str:
    if group == "raw":
        fetched = values.get("slots_fetched") or 0
        return f"{fetched} of {values.get('slots', fetched)} slots new" if fetched else UNCHANGED
    if group == "analytics":
        return "deployed" if values.get("definition_changed") else UNCHANGED
    signs = (("+", "inserted"), ("~", "updated"), ("-", "deleted"))
    changes = [f"{sign}{values[name]:,}" for sign, name in signs if values.get(name)]
    return " ".join(changes) or UNCHANGED


def _figures(metadata: Any) -> str:
    """Say how far a check's rule, which its description states, does not hold."""
    shown = [
        _short(metadata[name].value, unit)
        for name, unit in (("violations", "violation"), ("found", ""), ("rows", "row"))
        if name in metadata
    ]
    return f" Not so: {', '.join(shown)}" if shown else ""


def _short(value: Any, unit: str) -> str:
    if not isinstance(value, list):
        return f"{value:,} {unit}{'' if value == 1 else 's'}"
    more = f" and {len(value) - _NAMED} more" if len(value) > _NAMED else ""
    return ", ".join(map(str, value[:_NAMED])) + more


_NAMED: Final = 5


def readable_step(step: str) -> str:
    """Return a step as people call its asset: `raw__coins_list` is `raw.coins_list`."""
    return step.replace("__", ".")


def failure_of(event: "DagsterEvent") -> Failed:
    """Return the cause of a failed step without its traceback, and its remedy where it names one."""
    data = event.step_failure_data
    step = readable_step(event.step_key or "")
    told = data.user_failure_data
    if told is not None and told.metadata and "cause" in told.metadata:
        metadata = {name: str(value.value) for name, value in told.metadata.items()}
        asked = f" ({metadata['request']})" if metadata.get("request") else ""
        return Failed(step, f"{metadata['cause']}{asked}", metadata.get("remedy"))
    message = (told.description if told is not None else None) or _message(data.error)
    return split_remedy(step, message)


def interrupts(entry: "EventLogEntry") -> bool:
    """Whether a step or the run ended, or is to be retried, because of Ctrl-C."""
    data = entry.dagster_event.event_specific_data if entry.dagster_event else None
    error: SerializableErrorInfo | None = getattr(data, "error", None)
    while error is not None:
        if error.cls_name in _INTERRUPTS:
            return True
        error = error.cause
    return False


_INTERRUPTS: Final = ("KeyboardInterrupt", "DagsterExecutionInterruptedError")


def _retried(event: "DagsterEvent") -> Retried:
    data = event.step_retry_data
    seconds = data.seconds_to_wait or 0
    lines = _message(data.error).splitlines()
    return Retried(
        readable_step(event.step_key or ""), f"tried again in {seconds:.0f} s: {lines[0]}"
    )


def split_remedy(step: str, message: str) -> Failed:
    """Take a message of this project apart, whose remedy follows the word `Remedy:`."""
    cause, _, remedy = message.partition("Remedy:")
    return Failed(step, cause.strip(), remedy.strip() or None)


_WRAPPERS: Final = ("Dagster", "RetryRequested")


def _message(error: "SerializableErrorInfo | None") -> str:
    if error is None:
        return "The step failed without saying why."
    # Dagster wraps what the asset raised, once or more.
    while error.cause is not None and (error.cls_name or "").startswith(_WRAPPERS):
        error = error.cause
    text = error.message.strip()
    # `package.module.SomeError: what happened` says the module for us, the rest for the reader.
    head, colon, rest = text.partition(": ")
    return f"{head.rsplit('.', 1)[-1]}: {rest}" if colon and " " not in head else text
