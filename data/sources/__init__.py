"""Where image files come from: folders, archives, tables of paths; and their manifest."""
