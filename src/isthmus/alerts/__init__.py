"""Telling a person when a sync fails or falls silent, once, and once more when that is over."""
