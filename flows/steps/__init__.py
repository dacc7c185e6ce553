"""What each command does; each module is named by a verb."""
