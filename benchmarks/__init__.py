"""Measurements as scripts: each prints a table of docs/."""
