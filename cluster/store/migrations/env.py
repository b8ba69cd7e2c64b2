"""Alembic runs this file: it migrates on the connection that the store hands over, inside the store's transaction."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
context.run_migrations()
