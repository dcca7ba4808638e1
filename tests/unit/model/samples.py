"""One value of each stored or signed format, always the same."""

from __future__ import annotations

from bft.merkle import MountainRange, leaf_hash
from bft.secret import Secret
from bft.state_tree import Kind, state_key
from pond.model import names, tables, tree
from pond.model import update as u
from pond.model.block import BlockRef, Run, seal
from pond.model.encryption import UpdateCipher
from pond.model.stored import Stored
from pond.model.tree import Child, InnerNode, LeafNode, TreeRoot
from pond.model.update import Clause, Founding, Update
from pond.model.version import History, Metadata, ObjectRecord, Outcome, Reason, Status, VersionRoot
from tests.unit.model.store import Store, clause, update
from tests.unit.model.test_bundle import write

OWNER_KEY = Secret(bytes(range(32)))
SECRETS = names.OwnerSecrets.derive(OWNER_KEY)
OWNER = b"\x01" * 32
AGUID = b"\x02" * 32
DIGEST = b"\x03" * 32
SALT = b"\x04" * 32
REF = BlockRef(b"\x05" * 32, 300, 1, SALT, 70_000)
RUN = Run(1, SALT, 70_000, [300, 1], [b"\x05" * 32, b"\x06" * 32])
METADATA = Metadata(epoch=1, salt=SALT, counter=2, ciphertext=b"sixteen bytes or")
CONTENT = TreeRoot(b"\x07" * 32, 5_000_000_000, 80_000, 3)
RANGE = MountainRange.empty()
for number in range(3):
    RANGE, _ = RANGE.append(leaf_hash(b"%d" % number))

FULL_UPDATE = Update(
    aguid=AGUID,
    founding=Founding(DIGEST, 65536),
    clauses=[
        Clause(
            [
                u.VersionIs(3),
                u.SizeIs(70_000),
                u.BlockIs(1, b"\x05" * 32),
                u.Exists(),
                u.Or([u.Absent(), u.And([u.Before(10**15), u.Not(u.After(10**15))])]),
                u.MetadataIs(DIGEST),
                u.MetadataIs(None),
            ],
            [
                u.Append([RUN]),
                u.Truncate(500),
                u.ReplaceBlocks(0, 1, [RUN]),
                u.InsertBlocks(2, [RUN]),
                u.DeleteBlocks(0, 2),
                u.SetMetadata(METADATA),
                u.SetMetadata(None),
            ],
        ),
        Clause([], [u.Write([RUN])]),
        Clause([], [u.Delete()]),
    ],
)

VERSION = VersionRoot(
    aguid=AGUID,
    number=2,
    block_size=65536,
    content=CONTENT,
    previous=b"\x08" * 32,
    update=DIGEST,
    time=1_700_000_000_000_000,
    acl_version=0,
    metadata=METADATA,
    history=History(RANGE.count, RANGE.root),
    deleted=False,
)
TOMBSTONE = VersionRoot(
    aguid=AGUID,
    number=3,
    block_size=65536,
    content=tree.EMPTY,
    previous=b"\x08" * 32,
    update=DIGEST,
    time=1_700_000_000_000_000,
    acl_version=0,
    metadata=None,
    history=History(RANGE.count, RANGE.root),
    deleted=True,
)
RECORD = ObjectRecord(owner=OWNER, number=2, vguid=VERSION.digest(), deleted=False, block_size=65536, history=RANGE)


def _outcome(status: Status, index: int | None, clause: int | None, reason: Reason | None, number: int) -> Outcome:
    return Outcome(
        aguid=AGUID,
        index=index,
        update=DIGEST,
        writer=OWNER,
        status=status,
        clause=clause,
        reason=reason,
        number=number,
        vguid=b"\x08" * 32 if number else None,
        size_bytes=300 if number else 0,
        time=1_700_000_000_000_000,
    )


STATEMENTS: dict[str, Stored] = {
    "metadata": METADATA,
    "version": VERSION,
    "tombstone": TOMBSTONE,
    "record": RECORD,
    "update": FULL_UPDATE,
    "leaf node": LeafNode(children=[REF, REF]),
    "inner node": InnerNode(height=2, children=[Child(b"\x07" * 32, 300, 2), Child(b"\x08" * 32, 2**40, 64)]),
    "committed": _outcome(Status.COMMITTED, 7, 1, None, 3),
    "aborted before there is an object": _outcome(Status.ABORTED, None, None, Reason.NO_CLAUSE_HOLDS, 0),
    **{
        f"aborted {reason.value}": _outcome(Status.ABORTED, 7, None if i == 0 else 0, reason, 3)
        for i, reason in enumerate(list(Reason)[:6])
    },
    **{
        f"refused {reason.value}": _outcome(Status.REFUSED, None, None, reason, 0)
        for reason in (Reason.NOT_OWNER, Reason.NO_SUCH_OBJECT)
    },
}


def others() -> dict[str, bytes]:
    """What is stored, derived or signed and is no statement of one struct."""
    cipher = UpdateCipher(SECRETS.directory_read_key, 1, AGUID, SALT)
    ciphertext, ref = seal(cipher, b"hello")
    store = Store()
    refs = [Run(0, SALT, 0, [5], [store.block(0, 5).bguid])]
    store.run(update(clause(u.Write(refs))))
    store.run(update(clause(u.Truncate(9))))
    store.run(update(clause(u.Append(refs))))
    return {
        "signing seed": SECRETS.signing_seed.reveal(),
        "name key": SECRETS.name_key.reveal(),
        "directory read key": SECRETS.directory_read_key.reveal(),
        "name tag": names.name_tag(SECRETS.name_key, "notes"),
        "directory tag": names.directory_tag(SECRETS.name_key),
        "aguid": names.aguid(OWNER, DIGEST),
        "directory entry": names.encode_entry("notes", names.Entry(AGUID, {0: Secret(DIGEST), 1: Secret(SALT)})),
        "ciphertext": ciphertext,
        "bguid": ref.bguid,
        "empty history": MountainRange.empty().root,
        "state key": state_key(Kind.OBJECT, AGUID),
        "key in numbers": tables.number_key(AGUID, 258),
        "value in numbers": tables.number_value(259, DIGEST),
        "key in outcomes": tables.outcome_key(AGUID, 260),
        "key in ranges": tables.range_key(AGUID, 5, 261),
        "bundle": write(store, with_data=False),
        "bundle with data": write(store, with_data=True),
    }
