"""Every verb a user has, once: one function each, whatever the door (API and console will translate to the same)."""
