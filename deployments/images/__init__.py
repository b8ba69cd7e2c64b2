"""Container images and model artifacts in OCI's forms: see the README."""
