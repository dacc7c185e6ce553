"""The chain: commands and what they do, Prefect flows, workspace, reports, dashboard and command line."""

from nelbo.flows.telemetry import switch_off

# Packages read these variables when they are imported.
switch_off()
