"""Rules for Prometheus, as Python; rendered by `ops.render`."""
