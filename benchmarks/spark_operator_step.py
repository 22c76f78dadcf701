"""A step of Dagster in a process of its own, whose memory is measured.

python -m benchmarks.spark_operator_step '{"resource": …, "application": …}'
python -m benchmarks.spark_operator_step SECONDS

The first runs an application and watches it, the second sleeps; both print how long the step took.
"""

import json
import sys
import time

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DagsterInstance,
    MaterializeResult,
    asset,
    materialize,
)


def main() -> None:
    """Run the step."""
    given = json.loads(sys.argv[1])
    step = _watching(given["application"]) if isinstance(given, dict) else _sleeping(given)
    resources = {}
    if isinstance(given, dict):
        from dataplatform_tests.spark_operator.step import Operator

        resources["spark_operator"] = Operator(**given["resource"])
    with DagsterInstance.ephemeral() as instance:
        started = time.perf_counter()
        materialize([step], instance=instance, resources=resources)
    print(f"step took {time.perf_counter() - started}")


def _sleeping(seconds: float) -> AssetsDefinition:
    @asset
    def slept() -> MaterializeResult:
        time.sleep(seconds)
        return MaterializeResult()

    return slept


def _watching(application: dict[str, object]) -> AssetsDefinition:
    from dataplatform.resources.spark_operator.spec import SparkApplication
    from dataplatform_tests.spark_operator.step import Operator

    described = SparkApplication.model_validate(application)

    @asset
    def watched(context: AssetExecutionContext, spark_operator: Operator) -> MaterializeResult:
        pipes = spark_operator.pipes_client()
        return pipes.run(context=context, application=described).get_materialize_result()

    return watched


if __name__ == "__main__":
    main()
