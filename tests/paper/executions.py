"""Random executions of a ring, reduced to what rules A and B speak of: who accepted, prepared and committed what.

A model, not the machines: each honest replica keeps P, Q, its stable checkpoint and its view, and does at random what
the protocol lets it do, however old the view. Liars say whatever is well-formed. It decides with the `decide` of the
ring, and checks after each step that one batch at most is committed at a number.
"""

import random

from bft.batches import NULL
from bft.messages import MAX_ACCEPTED, Accepted, StableCheckpoint, ViewChange
from bft.new_view import Decision, decide
from bft.types import Epoch, ReplicaId, Sequence, View
from tests.paper.changes import CHECKPOINTS, MEMBERSHIPS, digest

INTERVAL = 2
WINDOW = 6
VIEWS = 7


class Honest:
    """What one honest replica knows."""

    def __init__(self) -> None:
        self.view = 0
        self.active = True
        self.low = 0
        self.named: list[bytes] = []
        self.prepared: dict[int, tuple[bytes, int]] = {}
        self.accepted: dict[int, dict[bytes, int]] = {}
        self.voted: set[tuple[int, int]] = set()
        self.executed = 0
        self.stable = 0

    def view_change(self, replica: int) -> ViewChange:
        """What it says on leaving for its view."""
        held = [
            (Sequence(n), CHECKPOINTS[n])
            for n in range(self.stable, self.executed + 1)
            if n % INTERVAL == 0 and n <= self.stable + WINDOW
        ]
        prepared = [Accepted(Sequence(n), d, View(v)) for n, (d, v) in sorted(self.prepared.items())]
        accepted = [
            Accepted(Sequence(n), d, View(v)) for n, votes in sorted(self.accepted.items()) for d, v in votes.items()
        ]
        stable = StableCheckpoint(Epoch(1), Sequence(self.stable), CHECKPOINTS[self.stable], [])
        return ViewChange(
            Epoch(1),
            View(self.view),
            ReplicaId(replica),
            stable,
            held,
            prepared,
            sorted(accepted, key=_place),
            bytes(64),
        )


def _place(entry: Accepted) -> tuple[int, bytes]:
    return entry.sequence, entry.digest


class Execution:
    """One random execution of a ring of 3f + 1 with f liars."""

    def __init__(self, size: int, draw: random.Random) -> None:
        self.draw = draw
        self.size = size
        self.membership = MEMBERSHIPS[size]
        self.liars = set(draw.sample(range(size), self.membership.faults))
        self.honest = {i: Honest() for i in range(size) if i not in self.liars}
        self.changes: dict[int, dict[int, ViewChange]] = {}
        self.new_views: dict[int, list[Decision]] = {0: [Decision(Sequence(0), CHECKPOINTS[0], ())]}
        self.proposals: dict[tuple[int, int], list[bytes]] = {}
        self.prepares: dict[tuple[int, int, bytes], set[int]] = {}
        self.commits: dict[tuple[int, int, bytes], set[int]] = {}
        self.committed: dict[int, bytes] = {}
        self.committed_in: dict[int, int] = {}
        self.decided = 0
        self.story: list[str] = []
        self._fresh = 0

    def run(self, steps: int) -> None:
        """Do so many things at random."""
        doings = [self._leave, *[self._begin] * 2, *[self._enter] * 3, *[self._propose] * 4]
        doings += [self._accept] * 12 + [self._prepare] * 8 + [self._execute] * 3 + [self._stabilise]
        for _ in range(steps):
            self.draw.choice(doings)()

    def final_changes(self) -> list[ViewChange]:
        """All honest replicas leave for one view that is higher than all."""
        view = VIEWS + 1
        for replica in self.honest.values():
            replica.view = view
        return [replica.view_change(i) for i, replica in self.honest.items()]

    def check(self, view: int, decision: Decision) -> None:
        """What is committed in lower views is in the decision."""
        low, batches = decision.stable, decision.batches
        for n, d in self.committed.items():
            if n > low and self.committed_in[n] < view:
                chosen = batches[n - low - 1] if n - low <= len(batches) else None
                assert chosen == d, (
                    f"{d.hex()[:6]} is committed at {n}, not {chosen and chosen.hex()[:6]}: {self.story}"
                )
        assert low <= max(replica.executed for replica in self.honest.values())

    # --- what may happen -------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        i, replica = self._anyone()
        if replica.view < VIEWS:
            replica.view = self.draw.randint(replica.view + 1, min(VIEWS, max(self._highest(), replica.view + 1)))
            replica.active = False
            self.changes.setdefault(replica.view, {})[i] = replica.view_change(i)
            self.story.append(f"{i} leaves for {replica.view}")

    def _highest(self) -> int:
        return max(replica.view for replica in self.honest.values())

    def _begin(self) -> None:
        """A primary decides: an honest one once, when it waits for the view; a liar as often as it likes."""
        views = [view for view in self.changes if view % self.size in self.liars or view not in self.new_views]
        if not views:
            return
        view = self.draw.choice(views)
        primary = view % self.size
        if primary in self.honest and (self.honest[primary].view, self.honest[primary].active) != (view, False):
            return
        available = dict(self.changes[view]) | {liar: self._lie(liar, view) for liar in self.liars}
        count = self.draw.randint(min(len(available), self.membership.quorum), len(available))
        chosen = self.draw.sample(sorted(available), count)
        if primary in self.honest and primary not in chosen:
            return
        if len(chosen) < self.membership.quorum:
            return
        decision = decide(self.membership, [available[i] for i in chosen], WINDOW)
        if decision is not None:
            self.decided += 1
            self.story.append(f"view {view} by {sorted(chosen)}: {[d.hex()[:6] for d in decision.batches]}")
            self.check(view, decision)
            self.new_views.setdefault(view, []).append(decision)
            if primary in self.honest:
                self._enter_by(primary, view, decision)

    def _lie(self, liar: int, view: int) -> ViewChange:
        """Half of what a liar claims might be true: it was voted for in that view."""
        draw = self.draw
        stable = draw.choice([0, *(replica.stable for replica in self.honest.values())])
        numbers = range(stable + 1, stable + WINDOW + 1)
        voted = [key for key in self.prepares if key[0] < view]
        prepared: dict[int, Accepted] = {}
        accepted: dict[tuple[int, bytes], Accepted] = {}
        for number in numbers:
            claims = [(u, n, d) for u, n, d in voted if n == number and draw.random() < 0.7]
            if draw.random() < 0.3:
                claims.append((draw.randrange(view), number, draw.choice([digest("invented"), NULL])))
            for u, n, d in claims:
                accepted[n, d] = Accepted(Sequence(n), d, View(u))
            if claims and draw.random() < 0.6:
                u, n, d = draw.choice(claims)
                prepared[n] = Accepted(Sequence(n), d, View(u))
        held = [stable, *(n for n in numbers if n % INTERVAL == 0 and draw.random() < 0.5)]
        return ViewChange(
            Epoch(1),
            View(view),
            ReplicaId(liar),
            StableCheckpoint(Epoch(1), Sequence(stable), CHECKPOINTS[stable], []),
            [(Sequence(n), CHECKPOINTS[n]) for n in held],
            list(prepared.values()),
            sorted(accepted.values(), key=_place),
            bytes(64),
        )

    def _enter(self) -> None:
        i, replica = self._anyone()
        views = [
            view for view in self.new_views if view > replica.view or (view == replica.view and not replica.active)
        ]
        views = [view for view in views if view % self.size != i]
        if views:
            view = self.draw.choice(views)
            self._enter_by(i, view, self.draw.choice(self.new_views[view]))

    def _enter_by(self, i: int, view: int, decision: Decision) -> None:
        replica = self.honest[i]
        replica.view, replica.active = view, True
        replica.low, replica.named = decision.stable, list(decision.batches)
        self.story.append(f"{i} enters {view}")
        if view % self.size == i:
            for n, d in enumerate(decision.batches, decision.stable + 1):
                self._vote(i, n, d)

    def _propose(self) -> None:
        """A number that NEW-VIEW did not name: an honest primary gives it one batch, a liar several."""
        view = self.draw.choice(sorted(self.new_views))
        primary = view % self.size
        lead = self.honest.get(primary)
        if lead is not None and (lead.view, lead.active) != (view, True):
            return
        low, named = (lead.low, lead.named) if lead is not None else (0, [])
        number = low + len(named) + 1 + self.draw.randrange(4)
        said = self.proposals.setdefault((view, number), [])
        if lead is not None and (said or number <= lead.executed or number > lead.stable + WINDOW):
            return
        self._fresh += 1
        known = [d for _, _, d in self.prepares]
        old = lead is None and known and self.draw.random() < 0.5
        said.append(self.draw.choice(known) if old else digest(f"batch {self._fresh}"))
        if lead is not None:
            self._vote(primary, number, said[0])

    def _accept(self) -> None:
        i, replica = self._anyone()
        if not replica.active:
            return
        number = replica.stable + 1 + self.draw.randrange(WINDOW)
        place = number - replica.low - 1
        if 0 <= place < len(replica.named):
            self._vote(i, number, replica.named[place])
        elif place >= 0 and (said := self.proposals.get((replica.view, number))):
            self._vote(i, number, self.draw.choice(said))

    def _vote(self, i: int, number: int, batch: bytes) -> None:
        replica = self.honest[i]
        in_window = replica.stable < number <= replica.stable + WINDOW
        if (replica.view, number) in replica.voted or not in_window:
            return
        if number <= replica.executed and self.committed[number] != batch:
            return  # a number that has run is voted for only with what ran
        replica.voted.add((replica.view, number))
        votes = replica.accepted.setdefault(number, {})
        votes.pop(batch, None)
        if len(votes) == MAX_ACCEPTED:
            del votes[min(votes, key=lambda old: votes[old])]
        votes[batch] = replica.view
        self.prepares.setdefault((replica.view, number, batch), set()).add(i)
        self.story.append(f"{i} accepts {batch.hex()[:6]} at {number} in {replica.view}")

    def _prepare(self) -> None:
        i, replica = self._anyone()
        mine = [key for key, voters in self.prepares.items() if key[0] == replica.view and i in voters]
        if not mine or not replica.active:
            return
        view, number, batch = self.draw.choice(mine)
        if (
            len(self.prepares[view, number, batch]) + len(self.liars) < self.membership.quorum
            or number <= replica.stable
        ):
            return
        replica.prepared[number] = (batch, view)
        self.story.append(f"{i} prepares {batch.hex()[:6]} at {number} in {view}")
        commits = self.commits.setdefault((view, number, batch), set())
        commits.add(i)
        if len(commits) + len(self.liars) >= self.membership.quorum:
            assert self.committed.setdefault(number, batch) == batch, f"two batches at {number}: {self.story}"
            self.committed_in[number] = min(view, self.committed_in.get(number, view))

    def _execute(self) -> None:
        _, replica = self._anyone()
        if replica.executed + 1 in self.committed:
            replica.executed += 1

    def _stabilise(self) -> None:
        _, replica = self._anyone()
        for number in range(replica.executed - replica.executed % INTERVAL, replica.stable, -INTERVAL):
            holders = sum(1 for other in self.honest.values() if other.executed >= number)
            if holders + len(self.liars) >= self.membership.quorum:
                replica.stable = number
                for book in (replica.prepared, replica.accepted):
                    for old in [old for old in book if old <= number]:
                        book.pop(old)
                return

    def _anyone(self) -> tuple[int, Honest]:
        i = self.draw.choice(sorted(self.honest))
        return i, self.honest[i]
