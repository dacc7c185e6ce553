"""The chain: commands and what they do, Prefect flows, workspace, reports, dashboard and command line."""

from nelbo.flows.telemetry import switch_off

# Before any of the packages is imported.
switch_off()
