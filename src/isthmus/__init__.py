"""Isthmus joins profiles and events with data warehouses, both ways, and proves every delivery."""

__version__ = "0.1.0"
