"""What each command does, a verb a module."""
