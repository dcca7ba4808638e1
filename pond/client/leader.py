"""Who leads the ring, as far as a client needs to know: updates go there first (TOCS 2002, section 4.1).

Nothing rests on it but speed: a server that does not lead passes updates on, and one that is silent is not waited for.
"""

from math import inf

from pond.client.asking import Asker, Conversation
from pond.protocol import GetStatus, ServerStatus

KNOWN_SECONDS = 10.0
"""How long we rely on what servers said about who leads."""


class Leader:
    """The server that f + 1 servers named, of those in the latest view."""

    def __init__(self, asker: Asker, enough: int) -> None:
        """`enough`: how many servers have to say the same."""
        self.server = 0
        self._asker = asker
        self._enough = enough
        self._said: dict[int, tuple[int, int]] = {}
        self._asked_at = -inf

    @property
    def is_old(self) -> bool:
        """Whether it is time to ask again."""
        return self._asker.loop.time() >= self._asked_at + KNOWN_SECONDS

    def doubt(self) -> None:
        """The one that leads, as far as we know, did not help: ask again at the next opportunity."""
        self._asked_at = -inf

    def ask(self, talk: Conversation) -> None:
        """Ask all servers, beside the question whose answers are waited for anyway."""
        self._asked_at = self._asker.loop.time()
        talk.send_beside(talk.encode(GetStatus(talk.ask)))

    def heard(self, server: int, said: ServerStatus) -> bool:
        """Note what a server says; true when another one leads by that."""
        self._said[server] = (said.view, said.primary)
        said_by_all = list(self._said.values())
        agreed = [leader for leader in said_by_all if said_by_all.count(leader) >= self._enough]
        leads = max(agreed)[1] if agreed else self.server
        if leads == self.server or leads >= self._asker.servers:
            return False
        self.server = leads
        return True
