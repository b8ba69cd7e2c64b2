"""Boards for Grafana, as Python; rendered by `ops.render`."""
