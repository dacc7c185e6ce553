"""The workspace: its layout, and everything that is read from it or written to it."""
