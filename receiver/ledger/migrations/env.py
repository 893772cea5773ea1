"""The entry point of Alembic. Always runs in a transaction on a connection that receiver.ledger.migrate passes."""

from alembic import context

from receiver.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # within the caller's transaction
    render_as_batch=True,
)
context.run_migrations()
