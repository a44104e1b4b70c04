"""Every verb a user has, once: one function each, whatever the door (CLI now; API and console translate to the same)."""
