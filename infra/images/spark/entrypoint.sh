#!/bin/bash
# What Spark's scheduler for Kubernetes expects of an image: `driver ARGUMENTS...` or `executor`, with
# the rest in variables; anything else is run as it is.
#
# Without an init such as tini: everything is started by exec, so the JVM is process 1, gets SIGTERM
# itself and runs its shutdown hooks; Spark waits for the Python workers that it starts.
set -euo pipefail

# Configuration of the cluster, where it is mounted, goes before the jars.
class_path=${HADOOP_CONF_DIR:+$HADOOP_CONF_DIR:}${SPARK_CONF_DIR:-$SPARK_HOME/conf}
class_path+=":${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$SPARK_HOME/jars/*${SPARK_EXTRA_CLASSPATH:+:$SPARK_EXTRA_CLASSPATH}"

executor() {
    local options=() name n
    # Each variable is one option, blanks included; the driver numbers them from 0.
    for ((n = 0; ; n++)); do
        name=SPARK_JAVA_OPT_$n
        [[ -v $name ]] || break
        options+=("${!name}")
    done
    exec "$JAVA_HOME/bin/java" "${options[@]}" \
        -Xms"$SPARK_EXECUTOR_MEMORY" -Xmx"$SPARK_EXECUTOR_MEMORY" -cp "$class_path" \
        org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
        --driver-url "$SPARK_DRIVER_URL" \
        --executor-id "$SPARK_EXECUTOR_ID" \
        --cores "$SPARK_EXECUTOR_CORES" \
        --app-id "$SPARK_APPLICATION_ID" \
        --hostname "$SPARK_EXECUTOR_POD_IP" \
        --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
        --podName "$SPARK_EXECUTOR_POD_NAME"
}

case ${1-} in
driver)
    shift
    exec "$SPARK_HOME/bin/spark-submit" \
        --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" --deploy-mode client "$@"
    ;;
executor) executor ;;
'') exec bash ;;
*) exec "$@" ;;
esac
