"""Outwards: plan → extract → load → advance; and the proof that both sides are equal."""
