"""OCI: see the README."""
