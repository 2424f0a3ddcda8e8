"""Alembic environment: runs on the connection that `idhub.migrations.migrate` passes."""

from alembic import context

from idhub.migrations.schema import target_metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=target_metadata,
    transactional_ddl=True,
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
