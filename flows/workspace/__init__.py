"""What lies in a workspace: its layout, and all that is read from it or written to it."""
