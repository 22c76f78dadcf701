"""The one description of host, machines and cluster, and its profiles."""
