"""A dedicated SQL pool of Azure Synapse Analytics, as far as Isthmus goes: TDS 7.4 outside, DuckDB inside.

    packets    bytes on the wire: packets, tokens, TLS inside packets
    values     T-SQL types: what a column holds, how a value looks on the wire
    catalog    databases, tables, logins, users, roles, grants
    views      sys.… and INFORMATION_SCHEMA.… from the catalog
    batches    a batch of T-SQL as statements: IF, BEGIN … END, what is between semicolons
    language   a statement of T-SQL in DuckDB's words
    functions  T-SQL's functions in DuckDB's words
    definitions  CREATE, ALTER, DROP, GRANT, REVOKE
    copying    COPY INTO from blob storage
    locks      who writes to which table
    session    one connection: carries statements out, in transactions
    server     listens, signs in, answers

What it does not know it refuses, loudly. Rights, passwords, lengths, the rules for transactions and the limits of COPY
are those of the vendor's documentation; what it cannot show is in docs/warehouses/synapse.md.
"""
