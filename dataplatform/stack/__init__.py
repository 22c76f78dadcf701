"""The real servers of the profile `stack` on one machine: installed, configured, started, ended."""
