"""Building and pushing the container images that `infra/images` describes."""
