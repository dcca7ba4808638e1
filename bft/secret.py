"""Secret bytes that stay out of logs, traces, errors and files (design.md, rule 8).

Python cannot erase memory, so this type guards against the common leaks instead: a repr, a format string, a pickle,
a copy, an encoder that walks attributes, a comparison that takes longer the more of a guess is right.
"""

from hmac import compare_digest
from typing import NoReturn


class Secret:
    """Bytes that only `reveal` shows. Equal to another Secret of the same content, compared in constant time.

    Not hashable, picklable or copyable. Raises TypeError when made of anything but bytes.
    """

    __slots__ = ("__content",)

    def __init__(self, content: bytes) -> None:
        if type(content) is not bytes:
            raise TypeError("a Secret is made of bytes")
        self.__content = content

    def reveal(self) -> bytes:
        """The secret bytes themselves: for the cryptographic call that needs them, and nothing else."""
        return self.__content

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self.__content, other.__content)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")
