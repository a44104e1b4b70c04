"""Run by the migration tool. The open transaction, and with it the lock, comes from `isthmus.ledger.database`."""

from alembic import context

from isthmus.ledger.schema import VERSION_TABLE, metadata

context.configure(connection=context.config.attributes["tx"], target_metadata=metadata, version_table=VERSION_TABLE)
context.run_migrations()
