"""Inwards: window → read → map → land → advance. Files join at "map"."""
