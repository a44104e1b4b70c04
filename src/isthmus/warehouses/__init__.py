"""The one seam: customers' warehouses. One file a kind; `KINDS` in `kinds.py` is the whole list."""
