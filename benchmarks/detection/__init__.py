"""How well nelbo sees defects."""
