"""The keys that clients authenticate with."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from ctseg.errors import BadInput, FileProblem

SHORTEST = 16
"""Characters of a key."""
LARGEST_FILE = 2**16


class Keys:
    """Keys of which any one is accepted, so that a new one can be handed out before the old one is removed.

    Args:
        keys: at least `SHORTEST` characters each.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys in a file, one on each line; empty lines and those that start with # do not count.

        Raises:
            FileProblem: the file cannot be read.
            BadInput: it holds no key, or a short one.
        """
        try:
            with path.open("rb") as file:
                text = file.read(LARGEST_FILE + 1)
            lines = [line.strip() for line in text.decode().splitlines()]
        except OSError as error:
            raise FileProblem(
                f"The key file {path} cannot be read: {error.strerror}.",
                hint="Check the path after --key-file, and its permissions.",
            ) from error
        except UnicodeDecodeError as error:
            raise BadInput(f"The key file {path} is no text.") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if len(text) > LARGEST_FILE or not keys or min(map(len, keys)) < SHORTEST:
            raise BadInput(
                f"The key file {path} must hold one key on each line, of {SHORTEST} characters or more.",
                hint="Make one: openssl rand -hex 32 > key.txt",
            )
        return cls(keys)

    def accept(self, given: str) -> bool:
        """Whether a client's key is one of them; takes the same time wherever they differ."""
        digest, found = _digest(given), False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
