"""Which Kubespray is run, and where it comes from."""

from typing import Final

RELEASE: Final = "v2.31.0"
COMMIT: Final = "1c9add48975060f45396b34d8e022c30d7f80dab"
"""What the tag has to be: git names a commit by the hash of all that it holds."""
REPOSITORY: Final = "https://github.com/kubernetes-sigs/kubespray.git"
SOURCE_VARIABLE: Final = "DATAPLATFORM_KUBESPRAY_SOURCE"
"""Names another repository that has the release: a mirror's URL, or a folder."""
