"""The SSH tunnels into the cluster's network, supervised: `dp tunnel`."""
