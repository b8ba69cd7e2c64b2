"""Lines: from a caller straight to a replica on its node, past Serve's handling of each call (decision 17)."""
