"""The ledger: our transactional record of what we were asked (connections, syncs) and how far we got (runs, chunks).

`database.open_ledger` opens it; the functions of the other modules take an open transaction as their first argument, so
that a caller decides what happens together. They return the frozen values of `isthmus.model.work`.
"""
