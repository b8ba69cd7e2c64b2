"""Everything at a glance."""

from __future__ import annotations

from cluster.commands.command import CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.feeds import FeedView, feed_views
from cluster.commands.models import ModelView, model_views
from cluster.commands.rights import anybodys


class StatusView(Message):
    """Everything at a glance. `table` is the number of the route table; `tick_s` when the controller last looked."""

    table: int
    tick_s: float
    models: tuple[ModelView, ...]
    feeds: tuple[FeedView, ...]


def _status(at: Context, _: Nothing) -> CommandResult:
    return CommandResult(
        at.state, StatusView(table=at.state.table, tick_s=at.tick_s, models=model_views(at), feeds=feed_views(at))
    )


STATUS = CommandEntry("status", Nothing, StatusView, _status, "Everything at a glance", anybodys, looks=True)
COMMANDS = (STATUS,)
