"""What the platform is deployed with."""
