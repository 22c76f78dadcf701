"""Run a Spark application as a step of Dagster, with Dagster Pipes through S3."""

import logging
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dagster import (
    MetadataValue,
    OpExecutionContext,
    PipesClient,
    PipesSession,
    open_pipes_session,
)
from dagster._core.definitions.resource_annotation import TreatAsResourceParam
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.pipes.client import PipesClientCompletedInvocation
from dagster_pipes import PipesExtras

from . import errors
from .client import Application, SparkApplicationClient
from .follow import TICK_SECONDS, Follower, Following
from .messages import (
    Bell,
    FolderContextInjector,
    FolderMessageReader,
    PipesBucket,
    PipesFolder,
)
from .ownership import (
    DIGEST_ANNOTATION,
    RUN_LABEL,
    Context,
    Owner,
    active_runs,
    digest_of,
    is_retried_when_interrupted,
    label_value,
    op_context,
)
from .spec import Manifest, SparkApplication
from .states import ApplicationState
from .stream import ApplicationStream
from .verdicts import (
    AGAIN,
    OneDriver,
    incomplete,
    raised,
    reported,
    unreadable,
)

OnExisting = Literal["reattach", "replace"]

CLOSING_SECONDS: Final = 2.0
"""A store that is not strongly consistent may show the last message so late."""

# Applications that this process follows: another step of it does not take them over.
_followed: set[str] = set()
_followed_lock = threading.Lock()


@dataclass(frozen=True)
class Links:
    """Where an application's pages are; `{namespace}`, `{name}` and `{spark_id}` are replaced.

    Attributes:
        ui: of a running application, such as `https://spark.example.org/{namespace}/{name}/`.
            Without it, the address of the ingress that the operator makes, if it makes one.
        history: of the history server, such as `https://spark-history.example.org`.
    """

    ui: str | None = None
    history: str | None = None

    def metadata(self, app: Application) -> dict[str, MetadataValue]:
        """Return the links of one application as metadata of Dagster."""
        found: dict[str, MetadataValue] = {}
        ingress = (app.status.get("driverInfo") or {}).get("webUIIngressAddress")
        names = {"namespace": app.namespace, "name": app.name, "spark_id": app.spark_id or ""}
        # Operators from 2.0 on write the ingress with its scheme.
        address = self.ui.format(**names) if self.ui else ingress
        if address:
            url = address if "://" in address else f"http://{address}"
            found["spark/ui"] = MetadataValue.url(url)
        if self.history and app.spark_id:
            address = f"{self.history.format(**names).rstrip('/')}/history/{app.spark_id}/"
            found["spark/history"] = MetadataValue.url(address)
        return found


@dataclass(frozen=True)
class _Request:
    """What a step asks to be run, as `stream` is given it."""

    context: OpExecutionContext
    application: SparkApplication
    extras: PipesExtras
    digest: str
    name_prefix: str | None
    may_omit: bool


@dataclass
class _Submission:
    """What is submitted, or taken over, for one step."""

    name: str
    folder: PipesFolder
    manifest: Manifest
    reader: FolderMessageReader
    bell: Bell
    driver: OneDriver
    existing: Application | None = None


class PipesSparkApplicationClient(PipesClient, TreatAsResourceParam):
    """Runs a Spark application and follows it to its end.

    Context and messages go through S3. The driver is told their place by the environment variables
    of Dagster Pipes and opens them with `PipesS3ContextLoader` and `PipesS3MessageWriter`.

    A cancelled run, or any error before the application's end, deletes it with its pods. An
    application left behind by a Dagster process that was ended from outside is found by its labels
    when the step is tried again: by the same run, or by a run that retries it.

    Args:
        client: of the namespace.
        bucket: where contexts and messages are.
        following: deadlines, log, progress.
        on_existing: what happens to an application that was left behind. `reattach`: followed on
            where specification and extras are the same, otherwise replaced; `replace`: deleted.
        links: of the UI and the history server.
    """

    def __init__(
        self,
        client: SparkApplicationClient,
        bucket: PipesBucket,
        following: Following | None = None,
        on_existing: OnExisting = "reattach",
        links: Links | None = None,
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.following = following or Following(deadlines=client.deadlines)
        self.on_existing = on_existing
        self.links = links or Links()

    def run(  # ty: ignore[incompatible-method-override]
        self,
        *,
        context: Context,
        application: SparkApplication,
        extras: PipesExtras | None = None,
        name_prefix: str | None = None,
    ) -> PipesClientCompletedInvocation:
        """Run an application to its end.

        Args:
            context: of the op or asset.
            application: what to run.
            extras: what the driver is told besides; JSON.
            name_prefix: what the application's name begins with; None, the step's key.

        Returns:
            what the driver reported: `get_results()`, `get_materialize_result()`,
            `get_custom_messages()`.

        Raises:
            SparkOperatorError: it did not complete; the type says why.
        """
        stream = self.stream(
            context=context, application=application, extras=extras, name_prefix=name_prefix
        )
        with stream:
            for _ in stream:
                # `invocation` has them all.
                pass
        if stream.invocation is None:
            raise AssertionError("a stream that ends without an error has an invocation")
        return stream.invocation

    def stream(
        self,
        *,
        context: Context,
        application: SparkApplication,
        extras: PipesExtras | None = None,
        name_prefix: str | None = None,
        identity: SparkApplication | None = None,
        may_omit: bool = False,
    ) -> ApplicationStream:
        """Run an application, giving each custom message while it runs.

        Nothing is submitted before the first message is asked for. When the application fails, all
        messages that the driver had sent are given before the error is raised.

        Args:
            context: of the op or asset.
            application: what to run.
            extras: what the driver is told besides; JSON.
            name_prefix: what the application's name begins with; None, the step's key.
            identity: what the next attempt knows the application by, where `application` has sizes
                that are chosen anew by each attempt; None, the application.
            may_omit: whether the step may leave out what it declares, such as a check that nothing
                was looked at for. Dagster forbids it after a session of Pipes, as the driver is to
                report everything; a step that yields results of its own knows better.

        Returns:
            the payloads that the driver gave `report_custom_message`; raises a SparkOperatorError
            where the application did not complete.
        """
        op, told = op_context(context), extras or {}
        digest = digest_of(op, identity or application, told)
        request = _Request(op, application, told, digest, name_prefix, may_omit)
        return ApplicationStream(lambda stream: self._messages(stream, request))

    def left_behind(
        self, *, context: Context, identity: SparkApplication, extras: PipesExtras | None = None
    ) -> bool:
        """Return whether the attempt before left an application that is at work, or unread.

        `stream` goes on with it, or replaces it where it may not be followed.

        Args:
            context: of the op or asset.
            identity: as `stream` is given it, or else its application.
            extras: as `stream` is given them.

        Raises:
            KubernetesApiError: the applications can't be listed.
            MessagesUnreadableError: the object store does not say whether there are messages.
        """
        op = op_context(context)
        owner, digest = Owner.of(op), digest_of(op, identity, extras or {})
        return any(
            not app.state.is_final or self._may_reattach(app, digest)
            for app in self._of_former_attempts(op, owner)
        )

    def _messages(self, stream: ApplicationStream, request: _Request) -> Generator[Any]:
        context, submission = request.context, self._prepare(request)
        injector = FolderContextInjector(submission.folder, write=submission.existing is None)
        with (
            _claimed(submission.name),
            _as_strict_as_before(context) if request.may_omit else nullcontext(),
            open_pipes_session(context, injector, submission.reader, request.extras) as session,
        ):
            app = self._submit(context, submission, session)
            with self._cancelled_on_error(context, app) as latest:
                yield from self._follow(context.log, submission, session, app, latest)
            stream.metadata = latest.metadata
            if not _has_lost_its_run(context):
                # Raised: a retry reads all of it again. Unmarked, a later run would take it for its own.
                submission.folder.close()
                self._clear(context.log, submission.folder)
        stream.invocation = PipesClientCompletedInvocation(session, metadata=latest.metadata)

    def _prepare(self, request: _Request) -> _Submission:
        owner, digest = Owner.of(request.context), request.digest
        existing = self._existing(request.context, owner, digest)
        name = existing.name if existing else owner.new_name(request.name_prefix)
        folder = self.bucket.folder(self.client.namespace, name)
        labels, annotations = owner.labels(), {DIGEST_ANNOTATION: digest}
        manifest = request.application.manifest(name, self.client.namespace, labels, annotations)
        bell = Bell()
        patience = self.following.deadlines.store
        reader = FolderMessageReader(folder, bell, self.following.poll_seconds, patience)
        driver = OneDriver(folder, is_new=existing is None)
        return _Submission(name, folder, manifest, reader, bell, driver, existing)

    def _existing(
        self, context: OpExecutionContext, owner: Owner, digest: str
    ) -> Application | None:
        """Return the application to take over, after deleting those that nobody may."""
        chosen: Application | None = None
        for app in self._of_former_attempts(context, owner):
            if chosen is None and self._may_reattach(app, digest):
                chosen = app
                context.log.info("Following %s (%s) again.", app.name, app.state.name)
            else:
                self._dispose(context.log, app)
        return chosen

    def _of_former_attempts(
        self, context: OpExecutionContext, owner: Owner
    ) -> Iterator[Application]:
        """Yield the applications of this step that nobody else follows."""
        for app in self.client.find(owner.selector()):
            if not self._is_followed_elsewhere(context, owner, app):
                yield app

    def _is_followed_elsewhere(
        self, context: OpExecutionContext, owner: Owner, app: Application
    ) -> bool:
        with _followed_lock:
            if app.name in _followed:
                return True
        if app.labels.get(RUN_LABEL) == label_value(owner.run_id):
            return False
        # It may follow an application of a run that it retries, as this one may.
        return bool(active_runs(context.instance, owner.root_run_id) - {owner.run_id})

    def _dispose(self, log: logging.Logger, app: Application) -> None:
        """Delete what a former attempt left behind; what has ended stays until its time is over."""
        if not app.state.is_final:
            log.info("Deleting %s, which a former attempt left behind.", app.name)
            self.client.delete(app.name)
        self._clear(log, self.bucket.folder(app.namespace, app.name))

    def _may_reattach(self, app: Application, digest: str) -> bool:
        failed = (
            ApplicationState.FAILED,
            ApplicationState.FAILING,
            ApplicationState.SUBMISSION_FAILED,
        )
        return (
            self.on_existing == "reattach"
            and not app.is_deleting
            and app.state not in failed
            and app.state not in AGAIN
            and app.attempts <= 1
            and app.annotations.get(DIGEST_ANNOTATION) == digest
            and self.bucket.folder(app.namespace, app.name).is_open()
        )

    def _submit(
        self, context: OpExecutionContext, submission: _Submission, session: PipesSession
    ) -> Application:
        if submission.existing:
            return submission.existing
        conf = submission.manifest["spec"].setdefault("sparkConf", {})
        for key, value in session.get_bootstrap_env_vars().items():
            conf[f"spark.kubernetes.driverEnv.{key}"] = value
        try:
            app = self.client.create(submission.manifest)
        except BaseException as error:
            if _is_left_for_retry(context, submission.name, error):
                raise
            # The request may have been fulfilled although its answer is not known.
            unknown = not isinstance(error, errors.SparkOperatorError) or isinstance(
                error, errors.ApiServerUnreachableError
            )
            if not unknown or self._cancel(context.log, submission.name, error):
                self._clear(context.log, submission.folder)
            raise
        context.log.info("Submitted SparkApplication %s/%s.", app.namespace, app.name)
        return app

    def _follow(
        self,
        log: logging.Logger,
        submission: _Submission,
        session: PipesSession,
        app: Application,
        latest: "_Latest",
    ) -> Generator[Any]:
        given = _Given(session)
        with Follower(self.client, app, self.following, log) as follower:
            submission.bell.listener = follower.wake
            failure = self._advance(follower, session, submission, latest, seconds=0)
            while not failure and not latest.app.state.is_final:
                yield from given.new()
                failure = self._advance(follower, session, submission, latest)
            self._drain(follower, submission.reader, failure)
            # What the block of the stream raises comes out of a `yield`: it is not ours to judge.
            yield from given.new()
            latest.metadata = self._metadata(follower)
            _raise(failure or self._verdict(follower, session, submission))

    def _advance(
        self,
        follower: Follower,
        session: PipesSession,
        submission: _Submission,
        latest: "_Latest",
        seconds: float = TICK_SECONDS,
    ) -> errors.SparkOperatorError | None:
        """Wait for what happens next; return why the application can't be followed any more."""
        app, reader = latest.app, submission.reader
        if reader.failure:
            return unreadable(f"{app.namespace}/{app.name}", reader.failure)
        try:
            latest.app = follower.step(seconds)
            has_opened = session.message_handler.received_opened_message
            submission.driver.check(latest.app, has_opened)
        except errors.SparkOperatorError as error:
            return error
        return None

    def _drain(
        self,
        follower: Follower,
        reader: FolderMessageReader,
        failure: errors.SparkOperatorError | None,
    ) -> None:
        """Read the last messages and lines, where the driver has ended."""
        app = follower.application
        has_ended = app.state.is_final or isinstance(failure, errors.DriverRestartedError)
        reader.finish(CLOSING_SECONDS if has_ended and app.attempts else 0)
        if app.state.is_final:
            follower.finish_log()

    def _verdict(
        self, follower: Follower, session: PipesSession, submission: _Submission
    ) -> errors.SparkOperatorError | None:
        """Return why an application in its final state has not done its work; None if it has."""
        app, reader = follower.application, submission.reader
        what = f"{app.namespace}/{app.name}"
        if app.state is ApplicationState.FAILED:
            return raised(follower.failure(), reader.closing_exception)
        if reader.failure:
            return unreadable(what, reader.failure)
        if reader.closing_exception:
            return reported(what, reader.closing_exception)
        if not session.message_handler.received_closed_message:
            _, details = follower.diagnosis()
            return incomplete(what, session.message_handler.received_opened_message, details)
        return None

    def _metadata(self, follower: Follower) -> dict[str, Any]:
        app = follower.application
        # Zeros would be told of an application whose jobs all ran after the last look.
        seen = follower.progress
        progress = seen.metadata() if seen and seen.jobs else {}
        return {
            "spark/application": f"{app.namespace}/{app.name}",
            "spark/id": app.spark_id or "",
            "spark/state": app.state.name,
            "spark/attempts": app.attempts,
            **follower.timeline.metadata(),
            **progress,
            **self.links.metadata(app),
        }

    @contextmanager
    def _cancelled_on_error(
        self, context: OpExecutionContext, app: Application
    ) -> "Generator[_Latest]":
        """Delete the application if the block ends before it has, unless a retry will want it."""
        latest = _Latest(app)
        try:
            yield latest
        except BaseException as error:
            # Whoever takes over an application that could not be deleted needs its messages.
            if not _is_left_for_retry(context, app.name, error) and (
                latest.app.state.is_final or self._cancel(context.log, app.name, error)
            ):
                self._clear(context.log, self.bucket.folder(app.namespace, app.name))
            raise

    def _cancel(self, log: logging.Logger, name: str, error: BaseException) -> bool:
        """Delete an application with its pods, and return and say whether all of it is gone."""
        interrupted = not isinstance(error, errors.SparkOperatorError)
        times = self.following.deadlines
        wait = times.interrupt if interrupted else times.deletion
        try:
            self.client.delete(name, wait)
        except errors.SparkOperatorError as failure:
            note = f"{name} could not be deleted: {failure}"
            error.add_note(note)
            log.error("%s", note)  # noqa: TRY400 - the reason is in the text
            return False
        log.info("Deleted %s with its pods.", name)
        return True

    def _clear(self, log: logging.Logger, folder: PipesFolder) -> None:
        try:
            folder.clear()
        except errors.MessagesUnreadableError as error:
            log.warning("Context and messages stay in %s. %s", folder, error)


@dataclass
class _Latest:
    """An application as it was seen last, and what is to be told about it."""

    app: Application
    metadata: Mapping[str, Any] = field(default_factory=dict)


class _Given:
    """Which custom messages were given on."""

    def __init__(self, session: PipesSession) -> None:
        self._session = session
        self._count = 0

    def new(self) -> Iterator[Any]:
        for payload in self._session.get_custom_messages()[self._count :]:
            self._count += 1
            yield payload


@contextmanager
def _as_strict_as_before(context: OpExecutionContext) -> Generator[None]:
    """Take back that each output of the step has to be reported, which a session of Pipes demands."""
    step = context.get_step_execution_context()
    before = step.requires_typed_event_stream
    try:
        yield
    finally:
        step._requires_typed_event_stream = before  # noqa: SLF001  Dagster can only set it


@contextmanager
def _claimed(name: str) -> Generator[None]:
    with _followed_lock:
        _followed.add(name)
    try:
        yield
    finally:
        with _followed_lock:
            _followed.discard(name)


def _raise(failure: Exception | None) -> None:
    if failure:
        raise failure


def _is_left_for_retry(context: OpExecutionContext, name: str, error: BaseException) -> bool:
    """Return whether the process is ended from outside, and Dagster will run the step again."""
    interrupts = (DagsterExecutionInterruptedError, KeyboardInterrupt)
    # A generator that is closed while an interrupt goes up is told of its closing only.
    cause = error.__context__ if isinstance(error, GeneratorExit) else error
    if not isinstance(cause, interrupts):
        return False
    if not is_retried_when_interrupted(context.instance, context.run_id):
        return False
    context.log.warning("%s goes on: this run was not canceled, and its retry takes over.", name)
    return True


def _has_lost_its_run(context: OpExecutionContext) -> bool:
    """Return whether the run was ended from outside, so that one that retries it may read along.

    A step in a pod of its own outlives the pod of its run.
    """
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.is_finished
