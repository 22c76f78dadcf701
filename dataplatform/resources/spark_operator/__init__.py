"""Spark applications of the Kubeflow Spark Operator as steps of Dagster.

Needs nothing else of this project: dagster, dagster-aws, kubernetes, pydantic, boto3 and tenacity.
The page docs/spark-operator.md shows how to use it elsewhere. Each module can be read alone:

- `spec`: a typed description of an application, and its manifest
- `client`: create, read, list, watch and delete applications
- `states`: what each state of an application means, and how long it may last
- `pods`: why pods don't run; the driver's log
- `progress`: stages, tasks and executors, from Spark's own REST API
- `messages`: Dagster Pipes through S3
- `pipes`: the Pipes client that ties them together
- `resource`: all of it as one Dagster resource
- `reaper`: a sensor that deletes what no run owns any more
- `errors`: one type for each way that this can fail
"""
