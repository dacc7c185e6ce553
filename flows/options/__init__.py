"""What can be set: one model for each command."""
