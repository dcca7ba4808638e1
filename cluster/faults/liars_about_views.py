"""Liars in how views end and begin: VIEW-CHANGE and NEW-VIEW, what is in them and who gets them."""

from collections.abc import Sequence as SequenceOf
from typing import Annotated, Any

import msgspec

from bft.batches import NULL
from bft.checkpoints import GENESIS
from bft.messages import (
    MAX_ACCEPTED,
    MAX_WINDOW,
    Accepted,
    Message,
    NewView,
    StableCheckpoint,
    ViewChange,
)
from bft.new_view import Decision, decide
from bft.types import AgreedTime, ReplicaId, Sequence, View
from bft.view_change import new_view_statement, view_change_statement
from cluster.faults.lying import Effects, Forger, Liar, Means, NowAndThen, Parameters, Pest, SomeOfIt, kind

MOST = 2**63 - 1


def signed_view_change(means: Means, change: ViewChange, **changes: Any) -> ViewChange:
    """The VIEW-CHANGE with these changes, properly signed."""
    changed = msgspec.structs.replace(change, **changes)
    signature = means.signer.sign(view_change_statement(means.membership, changed))
    return msgspec.structs.replace(changed, signature=signature)


def own_view_change(means: Means, view: View) -> ViewChange:
    """A VIEW-CHANGE of its own for any view: what its core would say if it left now."""
    replica = means.replica
    prepared, accepted = replica.ordering.sets()
    checkpoints = replica.checkpoints
    unsigned = ViewChange(
        means.membership.epoch,
        view,
        means.identity,
        checkpoints.proven,
        checkpoints.held(),
        prepared,
        accepted,
        bytes(64),
    )
    return signed_view_change(means, unsigned)


def signed_new_view(means: Means, new_view: NewView, **changes: Any) -> NewView:
    """The NEW-VIEW with these changes, properly signed."""
    changed = msgspec.structs.replace(new_view, **changes)
    claimed = Decision(changed.stable, changed.digest, tuple(changed.batches))
    signed = new_view_statement(means.membership, changed.view, changed.view_changes, claimed)
    return msgspec.structs.replace(changed, signature=means.signer.sign(signed))


# --- VIEW-CHANGE -------------------------------------------------------------------------------------------------


class OwnViewChanges(Forger[SomeOfIt]):
    """Says something else in its own VIEW-CHANGE, to each peer anew, so that no two need hear the same."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Other people's, which NEW-VIEW shows, stay as they are."""
        return self.changed(message) if isinstance(message, ViewChange) else None

    def changed(self, change: ViewChange) -> SequenceOf[ViewChange] | None:
        """What it says in place of this."""
        raise NotImplementedError


class Sets(SomeOfIt, frozen=True):
    """In which of the sets it lies."""

    prepared: bool = True
    """P: what prepared at it."""
    accepted: bool = True
    """Q: what it accepted."""


@kind("invents-in-view-change", Sets)
class InventsInViewChange(OwnViewChanges):
    """Tells of batches that nobody proposed, or of null batches in place of all that it accepted, as prepared in the
    latest view and as accepted. Attacks rules A1 and A2: an entry of P counts only when f + 1 accepted it, and does not
    hide what did prepare."""

    parameters: Sets

    def changed(self, change: ViewChange) -> SequenceOf[ViewChange] | None:
        low, before = change.stable.sequence, View(change.view - 1)
        numbers = {entry.sequence for entry in change.pre_prepared}
        if numbers and self.choices.random() < 0.5:
            batch = NULL
        else:
            batch, count = self.choices.randbytes(32), self.choices.randint(1, min(8, self.means.tuning.window))
            places = self.choices.sample(range(1, self.means.tuning.window + 1), count)
            numbers = {Sequence(low + place) for place in places}
        invented = {sequence: Accepted(sequence, batch, before) for sequence in sorted(numbers)}
        prepared = {entry.sequence: entry for entry in change.prepared}
        accepted = [entry for entry in change.pre_prepared if entry.sequence not in invented]
        if self.parameters.prepared:
            prepared |= invented
        if self.parameters.accepted:
            accepted = sorted([*accepted, *invented.values()], key=lambda entry: (entry.sequence, entry.digest))
        ordered = [prepared[sequence] for sequence in sorted(prepared)]
        return [signed_view_change(self.means, change, prepared=ordered, pre_prepared=accepted)]


@kind("omits-in-view-change", Sets)
class OmitsInViewChange(OwnViewChanges):
    """Keeps to itself what prepared at it, and what it accepted. Attacks the quorums behind rules A2 and B: what
    committed prepared at f + 1 correct replicas at least, so it must come back all the same."""

    parameters: Sets

    def changed(self, change: ViewChange) -> SequenceOf[ViewChange] | None:
        omitted: dict[str, Any] = {}
        if self.parameters.prepared and change.prepared:
            omitted["prepared"] = []
        if self.parameters.accepted and change.pre_prepared:
            omitted["pre_prepared"] = []
        return [signed_view_change(self.means, change, **omitted)] if omitted else None


@kind("stale-view-change", SomeOfIt)
class StaleViewChange(OwnViewChanges):
    """Tells of an older checkpoint than it has, with its proof. Attacks the choice of where a view starts: an old start
    would order again what has run."""

    def __init__(self, means: Means, parameters: SomeOfIt, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._old = [StableCheckpoint(means.membership.epoch, Sequence(0), GENESIS, [])]

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """What is stable now will be old."""
        proven = self.replica.checkpoints.proven
        if proven.sequence > self._old[-1].sequence:
            self._old = [*self._old[-8:], proven]
        return super().says(effects, now)

    def changed(self, change: ViewChange) -> SequenceOf[ViewChange] | None:
        older = [proven for proven in self._old if proven.sequence < change.stable.sequence]
        if not older:
            return None
        stable = self.choices.choice(older)
        high = stable.sequence + self.means.tuning.window
        return [
            signed_view_change(
                self.means,
                change,
                stable=stable,
                checkpoints=[(stable.sequence, stable.digest)],
                prepared=[entry for entry in change.prepared if entry.sequence <= high],
                pre_prepared=[entry for entry in change.pre_prepared if entry.sequence <= high],
            )
        ]


@kind("malformed-view-change", SomeOfIt)
class MalformedViewChange(OwnViewChanges):
    """Sends VIEW-CHANGEs that break one rule of their form: entries twice, out of order, outside the watermarks or of
    views to come, a checkpoint without proof, another's name. Attacks what is computed from them."""

    def changed(self, change: ViewChange) -> SequenceOf[ViewChange] | None:
        low, some = change.stable.sequence, self.choices.randbytes(32)
        entry = Accepted(Sequence(low + 1), some, View(change.view - 1))
        beyond = Sequence(low + self.means.tuning.window + 1)
        other = self.choices.choice(self.means.peers)
        wrongs: list[dict[str, Any]] = [
            {"prepared": [entry, entry]},
            {"prepared": [msgspec.structs.replace(entry, sequence=Sequence(low + 2)), entry]},
            {"prepared": [msgspec.structs.replace(entry, sequence=beyond)]},
            {"prepared": [msgspec.structs.replace(entry, sequence=Sequence(MOST), view=View(0))]},
            {"prepared": [msgspec.structs.replace(entry, view=change.view)]},
            {"pre_prepared": [msgspec.structs.replace(entry, view=View(MOST))]},
            {"pre_prepared": [entry, entry]},
            {"pre_prepared": [Accepted(entry.sequence, bytes([i]) * 32, entry.view) for i in range(MAX_ACCEPTED + 1)]},
            {"checkpoints": [(low, some)]},
            {"checkpoints": [*change.checkpoints, (beyond, some)]},
            {"checkpoints": [*change.checkpoints, change.checkpoints[-1]]},
            {"stable": msgspec.structs.replace(change.stable, digest=some), "checkpoints": [(low, some)]},
            {"replica": other},
            {"replica": ReplicaId(2**16)},
            {"epoch": change.epoch + 1},
        ]
        if change.stable.proof:
            fewer = msgspec.structs.replace(change.stable, proof=change.stable.proof[1:])
            wrongs += [{"stable": fewer}] * 3
        wrong = self.choices.choice(wrongs)
        return [signed_view_change(self.means, change, **wrong)]


@kind("huge-view-change", SomeOfIt)
class HugeViewChange(OwnViewChanges):
    """Fills P and Q as far as their form allows. Attacks the time that deciding takes, and the size of NEW-VIEW."""

    def changed(self, change: ViewChange) -> SequenceOf[ViewChange] | None:
        low, window = change.stable.sequence, min(self.means.tuning.window, MAX_WINDOW)
        numbers = [Sequence(low + place) for place in range(1, window + 1)]
        before = View(change.view - 1)
        prepared = [Accepted(sequence, self.choices.randbytes(32), before) for sequence in numbers]
        accepted = [
            Accepted(sequence, digest, before)
            for sequence in numbers
            for digest in sorted(self.choices.randbytes(32) for _ in range(MAX_ACCEPTED))
        ]
        return [signed_view_change(self.means, change, prepared=prepared, pre_prepared=accepted)]


@kind("spams-view-changes", NowAndThen)
class SpamsViewChanges(Pest[NowAndThen]):
    """Asks for ever higher views. Attacks the rule to join others: f spammers must cause no view change, nor drag along
    those who have reasons of their own."""

    def __init__(self, means: Means, parameters: NowAndThen, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._highest = View(0)

    def pester(self, now: AgreedTime) -> Effects:
        """Mostly the next one, at times one far away."""
        view = max(self._highest, self.replica.views.view)
        step = self.choices.choice((1, 1, 1, 2, self.means.membership.size))
        self._highest = View(min(view + step, MOST))
        return self.to_all([own_view_change(self.means, self._highest)])


@kind("leaps-ahead", NowAndThen)
class LeapsAhead(Pest[NowAndThen]):
    """Asks for the last view there is, at once. Attacks the arithmetic of views, and a wait for its honest word, which
    never comes again."""

    def pester(self, now: AgreedTime) -> Effects:
        """Only two views are above all others."""
        return self.to_all([own_view_change(self.means, View(MOST - self.choices.randrange(2)))])


class AfterAWhile(Parameters, frozen=True):
    """When."""

    batches: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """How many it orders first."""


@kind("resigns", AfterAWhile)
class Resigns(Liar[AfterAWhile]):
    """Gives up whenever it leads. Attacks the rule that a primary's own VIEW-CHANGE is believed at once: one in n views
    may be lost by it, and no more."""

    def __init__(self, means: Means, parameters: AfterAWhile, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        self._since = Sequence(0)
        self._view = View(-1)
        self._resigned = False

    def says(self, effects: Effects, now: AgreedTime) -> Effects:
        """Its VIEW-CHANGE, though its core stays until others have followed."""
        view, executed = self.replica.views.view, self.replica.execution.executed
        if view != self._view:
            self._view, self._since, self._resigned = view, executed, False
        if self._resigned or not self.replica.is_primary or executed < self._since + self.parameters.batches:
            return effects
        self._resigned = True
        change = own_view_change(self.means, View(view + 1))
        return [*effects, *self.to_all([change])]


# --- NEW-VIEW ----------------------------------------------------------------------------------------------------


class NewViews(Forger[SomeOfIt]):
    """Does something else with the NEW-VIEW of a view that it leads."""

    def instead(self, to: ReplicaId, message: Message) -> SequenceOf[Message] | None:
        """Others' NEW-VIEWs it passes on as they are."""
        if isinstance(message, NewView) and self.means.membership.primary(message.view) == self.means.identity:
            return self.changed(to, message)
        return None

    def changed(self, to: ReplicaId, new_view: NewView) -> SequenceOf[Message] | None:
        """What `to` gets in place of it."""
        raise NotImplementedError


@kind("no-new-view", SomeOfIt)
class NoNewView(NewViews):
    """Never begins a view that it is to lead. Attacks the timer between views, and patience that doubles."""

    def changed(self, to: ReplicaId, new_view: NewView) -> SequenceOf[Message] | None:
        return []


class Told(SomeOfIt, frozen=True):
    """Who gets it."""

    besides_quorum: bool = False
    """All but f, else only f: those then are alone in the view, and the others go on to the next."""


@kind("new-view-to-some", Told)
class NewViewToSome(NewViews):
    """Begins its views with some only. Attacks the assumption that who leaves a view sees the next one begin."""

    parameters: Told

    def __init__(self, means: Means, parameters: Told, place: int = 0) -> None:
        super().__init__(means, parameters, place)
        faults, peers = means.membership.faults, means.peers
        self._told = frozenset(
            means.choices.sample(peers, len(peers) - faults if parameters.besides_quorum else faults)
        )

    def changed(self, to: ReplicaId, new_view: NewView) -> SequenceOf[Message] | None:
        return None if to in self._told else []


@kind("bad-new-view", SomeOfIt)
class BadNewView(NewViews):
    """Begins views with something that does not follow from the VIEW-CHANGEs that it shows: a batch left out, swapped,
    invented or put in front, another start, too few VIEW-CHANGEs, one twice, an altered one, of another view or of
    nobody, or unsigned. Attacks everybody's computing the decision again."""

    def changed(self, to: ReplicaId, new_view: NewView) -> SequenceOf[Message] | None:
        changes, batches, some = new_view.view_changes, list(new_view.batches), self.choices.randbytes(32)
        quorum = self.means.membership.quorum
        altered = msgspec.structs.replace(changes[0], prepared=[], pre_prepared=[], signature=some * 2)
        wrongs: list[dict[str, Any]] = [
            {"batches": [*batches, some]},
            {"batches": [*batches, NULL]},
            {"stable": Sequence(new_view.stable + self.means.tuning.interval)},
            {"digest": some},
            {"stable": Sequence(0), "digest": GENESIS, "batches": [NULL] * min(new_view.stable, MAX_WINDOW)},
            {"view_changes": changes[: quorum - 1]},
            {"view_changes": [*changes[: quorum - 1], *changes[quorum - 2 : quorum - 1]]},
            {"view_changes": changes[::-1]},
            {"view_changes": [altered, *changes[1:]]},
            {"view_changes": [msgspec.structs.replace(changes[0], view=View(new_view.view + 1)), *changes[1:]]},
            {"view_changes": [msgspec.structs.replace(changes[0], epoch=new_view.epoch + 1), *changes[1:]]},
            {"view_changes": [*changes[:-1], msgspec.structs.replace(changes[-1], replica=ReplicaId(2**16))]},
        ]
        if batches:
            place = self.choices.randrange(len(batches))
            wrongs += [
                {"batches": batches[:-1]},
                {"batches": [*batches[:place], NULL, *batches[place + 1 :]]},
                {"batches": [*batches[:place], some, *batches[place + 1 :]]},
                {"batches": batches[::-1]},
            ]
        wrong = self.choices.choice([*wrongs, {"signature": some * 2}])
        if "signature" in wrong:
            return [msgspec.structs.replace(new_view, **wrong)]
        lie = signed_new_view(self.means, new_view, **wrong)
        return [lie] if self._differs(lie, new_view) else None

    def _differs(self, lie: NewView, truth: NewView) -> bool:
        """Null batches, say, are left as they were when they are put where they are."""
        same = msgspec.structs.replace(lie, signature=truth.signature)
        return same != truth


@kind("forgets-batches", SomeOfIt)
class ForgetsBatches(NewViews):
    """Begins views as if nothing had prepared in those before, and tells everybody the same. Attacks everybody's
    computing the decision again: a ring that followed would run null batches where others have run already."""

    def changed(self, to: ReplicaId, new_view: NewView) -> SequenceOf[Message] | None:
        nothing = [NULL] * len(new_view.batches)
        return [signed_new_view(self.means, new_view, batches=nothing)] if nothing != new_view.batches else None


@kind("two-new-views", SomeOfIt)
class TwoNewViews(NewViews):
    """Begins a view in two ways, each of which follows from VIEW-CHANGEs: its own one says to half of the others that
    nothing had prepared at it. Attacks the assumption that a view begins in one way only."""

    def changed(self, to: ReplicaId, new_view: NewView) -> SequenceOf[Message] | None:
        if to % 2:
            return None
        means = self.means
        changes = [
            signed_view_change(means, change, prepared=[], pre_prepared=[])
            if change.replica == means.identity
            else change
            for change in new_view.view_changes
        ]
        ways = [changes]
        if len(changes) > means.membership.quorum:
            ways += [[change for change in changes if change is not left_out] for left_out in changes]
        for way in self.choices.sample(ways, len(ways)):
            decision = decide(means.membership, way, means.tuning.window)
            if decision is not None and way != new_view.view_changes:
                stable, digest, batches = decision
                other = signed_new_view(
                    means, new_view, view_changes=way, stable=stable, digest=digest, batches=list(batches)
                )
                return [other]
        return None
