"""From a bare Proxmox VE host to the machines of the specification, by plan and apply."""
