"""Linear VAEs in closed form."""
