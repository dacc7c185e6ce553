"""What this system has and lacks: ``doctor``."""
