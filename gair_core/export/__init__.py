"""Our models for programs that do not know them."""
