"""Connections that send nothing, or a byte now and then, are closed; nobody holds too many of them."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from metadeblur.app.hosts import Proxies

HEADER_SECONDS = 20.0  # for the head of a request to arrive, and for what is sent after the answer
MOST_CONNECTIONS = 1000
MOST_OF_ONE = 200  # connections of one address; a proxy's are those of many people


class Connection(H11Protocol):
    """A visitor's connection.

    Args:
        proxies: are not limited as one person is.
        config: as uvicorn's.
        rest: likewise.
    """

    def __init__(self, config: Any, *rest: Any, proxies: Proxies, **others: Any) -> None:
        super().__init__(config, *rest, **others)
        self._proxies = proxies
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has come."""
        super().connection_made(transport)
        if self._too_many():
            transport.abort()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """They have gone."""
        super().connection_lost(exc)
        self._be_patient(False)

    def handle_events(self) -> None:
        """Something has arrived."""
        super().handle_events()
        self._watch()

    def _too_many(self) -> bool:
        if len(self.connections) > MOST_CONNECTIONS:
            return True
        address = self.client[0] if self.client else ""
        if address in self._proxies:
            return False
        theirs = [other for other in self.connections if isinstance(other, Connection) and other.of(address)]
        return len(theirs) > MOST_OF_ONE

    def of(self, address: str) -> bool:
        """Whether it is a connection of this address."""
        return self.client is not None and self.client[0] == address

    def _watch(self) -> None:
        """While a request's head is awaited, or more of a body that is answered already, there is an end to it."""
        answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        self._be_patient(self.conn.their_state is h11.IDLE or answered)

    def _be_patient(self, waiting: bool) -> None:
        if not waiting:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        elif self._patience is None:
            self._patience = self.loop.call_later(HEADER_SECONDS, self.transport.abort)
