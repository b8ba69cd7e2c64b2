"""Records' values to tensors and back, in every declared format."""
