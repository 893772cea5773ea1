"""Alembic's entrance. It always runs on a connection that receiver.ledger.migrate hands over, inside a transaction."""

from alembic import context

from receiver.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction holds it all
    render_as_batch=True,
)
context.run_migrations()
