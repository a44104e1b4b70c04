"""The words of the product as frozen values, enums and pure functions. No I/O, nothing of ours below."""
