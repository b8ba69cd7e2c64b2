"""A model's way from a trained file to running replicas."""
