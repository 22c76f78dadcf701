#!/bin/bash
# Called by Kubernetes before it ends an executor, where `spark.decommission.enabled` is set: the
# executor, process 1, hands its blocks on when it gets SIGPWR, and has a minute for that.
kill -s PWR 1
timeout 60 tail --pid=1 -f /dev/null
