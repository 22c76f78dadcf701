"""The Spark Operator as one Dagster resource."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field, PrivateAttr

from .states import Deadlines

# The official client of Kubernetes and boto3 are imported when they are needed: together they take
# longer than all of Dagster.
if TYPE_CHECKING:
    from .client import SparkApplicationClient
    from .follow import Following
    from .messages import PipesBucket
    from .pipes import Links, PipesSparkApplicationClient

DEFAULT_PREFIX: Final = "dagster-pipes"


class SparkOperatorResource(ConfigurableResource):
    """A namespace in which the Kubeflow Spark Operator runs applications.

    No field holds a secret: Dagster keeps a resource's fields in its database. The API server is
    reached with the pod's service account or with a kubeconfig; the object store by boto3's own chain
    of credentials, or by what a subclass returns from `s3`. Nothing is asked before it is used.

    Attributes:
        namespace: of the applications.
        kubeconfig: a file; None, the pod's service account within a cluster, elsewhere the file
            that kubectl would use.
        kube_context: one of the file; None, its current one.
        in_cluster: None, found out.
        pipes_bucket: where contexts and messages of applications go.
        pipes_prefix: the folder within the bucket.
        s3_endpoint: of an object store that is not AWS.
        on_existing: `reattach` or `replace`: what happens to an application that a killed Dagster
            process left behind.
        deadlines: seconds for each state, as in `states.Deadlines`, where they are not its defaults.
        stream_log: whether the driver's log goes to the step's standard output.
        progress_seconds: between two questions to Spark how far it is; 0, it is not asked.
        poll_seconds: between two looks for messages.
        ui_url: of running applications; `{namespace}`, `{name}` and `{spark_id}` are replaced.
        history_url: of the history server.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    namespace: str = "spark"
    kubeconfig: str | None = None
    kube_context: str | None = None
    in_cluster: bool | None = None
    pipes_bucket: str
    pipes_prefix: str = DEFAULT_PREFIX
    s3_endpoint: str | None = None
    # Dagster's config knows no Literal.
    on_existing: str = Field(default="reattach", pattern="^(reattach|replace)$")
    deadlines: dict[str, float] = Field(default={})
    stream_log: bool = True
    progress_seconds: float = Field(default=30.0, ge=0)
    poll_seconds: float = Field(default=1.0, gt=0)
    ui_url: str | None = None
    history_url: str | None = None
    _client: "SparkApplicationClient | None" = PrivateAttr(default=None)

    def s3(self) -> Any:
        """Return a boto3 client of the object store; override it where the key is kept elsewhere."""
        import boto3

        options: Mapping[str, Any] = {"endpoint_url": self.s3_endpoint} if self.s3_endpoint else {}
        return boto3.client("s3", **options)

    def times(self) -> Deadlines:
        """Return the deadline of each state."""
        return Deadlines.model_validate(self.deadlines)

    def client(self) -> "SparkApplicationClient":
        """Return the client of the namespace; signs in at the first call.

        Raises:
            UnauthorizedError: there is no configuration to sign in with.
        """
        from .client import SparkApplicationClient

        if self._client is None:
            self._client = SparkApplicationClient.connect(
                self.namespace,
                self.kubeconfig and os.path.expanduser(self.kubeconfig),  # noqa: PTH111
                self.kube_context,
                self.in_cluster,
                self.times(),
            )
        return self._client

    def pipes_client(self) -> "PipesSparkApplicationClient":
        """Return the Pipes client: `run` and `stream`.

        Raises:
            UnauthorizedError: there is no configuration to sign in with.
        """
        from .pipes import PipesSparkApplicationClient

        policy = "replace" if self.on_existing == "replace" else "reattach"
        return PipesSparkApplicationClient(
            self.client(), self.bucket(), self._following(), policy, self._links()
        )

    def bucket(self) -> "PipesBucket":
        """Return where contexts and messages are; connects when one is read."""
        from .messages import PipesBucket

        return PipesBucket(self.pipes_bucket, self.pipes_prefix, self.s3)

    def _following(self) -> "Following":
        from .follow import Following

        return Following(
            deadlines=self.times(),
            stream_log=self.stream_log,
            progress_seconds=self.progress_seconds or None,
            poll_seconds=self.poll_seconds,
        )

    def _links(self) -> "Links":
        from .pipes import Links

        return Links(self.ui_url, self.history_url)
