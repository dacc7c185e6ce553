"""Images that are kept to be looked at although they were not flagged: drawn at random, and nearly flagged."""
