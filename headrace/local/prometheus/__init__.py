"""Prometheus and Alertmanager beside what runs here."""
