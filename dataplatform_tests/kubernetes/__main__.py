"""`python -m dataplatform_tests.kubernetes`: build the programs of the tests' node ahead."""

import sys

from dataplatform_tests.kubernetes.binaries import node_programs


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


_tell(str(node_programs(_tell)))
