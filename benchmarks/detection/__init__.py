"""How well it sees defects."""
