"""What a SparkApplication names as its main file: the driver, wherever Python keeps its packages."""

import runpy

runpy.run_module("dataplatform.lake.driver", run_name="__main__")
