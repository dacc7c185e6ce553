"""Images that are kept for people to look at although they were not flagged: drawn at random, or nearly flagged."""
