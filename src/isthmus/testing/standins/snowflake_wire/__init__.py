"""A Snowflake to test against: fakesnow's translation of its SQL to DuckDB, behind a server of our own.

fakesnow runs Snowflake's SQL on DuckDB and knows nothing of who asks. This package adds what a connector relies on at
the real one: sign-in by password and key pair, roles and grants that are enforced, object names of sessions, table
locks and READ COMMITTED transactions, temporary tables and stages of a session, PUT and COPY INTO by column name, the
wire's form of results, and faults a test can ask for. What it does not know fails loudly, as a statement refused.

It runs in an environment of its own (`requirements/snowflake.lock`) and is started by the launcher beside it.
"""
