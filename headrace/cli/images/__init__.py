"""Commands on container images: see the README."""
