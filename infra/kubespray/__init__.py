"""Kubernetes on the machines, by Kubespray: its inventory from the specification, and its runner."""
