"""How fast nelbo is."""
