"""The container images of the profile `cluster`: Dockerfiles, and what their stages run."""
