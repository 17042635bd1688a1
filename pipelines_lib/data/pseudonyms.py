"""Keyed hashes that stand for identifiers: HMAC-SHA256 (RFC 2104) under a secret key, so that only who has the key can tell whose they are.

A pseudonym is 32 hexadecimal digits: 12 bytes of the hash of the value, then 4 bytes of a hash of those 12, under a key of its
own. Two of n different values share one with a probability below n²/2⁹⁷: 6 in 10¹² for 10⁹ values. By the last 4 bytes a
pseudonym is known again (any other text passes for one with a probability of 2⁻³²) and left as it is: what comes back from a
replay, a labelling tool or another table is not hashed twice, and nobody has to say which texts are pseudonyms already.

The key is the password of the connection that `privacy.connection` names. Keys of use cases of different domains are derived
from it, so their pseudonyms of the same value have nothing in common.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.config import Project
from pipelines_lib.connections import connection, variable_of
from pipelines_lib.errors import ConfigError
from pipelines_lib.store import StorePath, read_json, write_json
from pipelines_lib.use_case import UseCase

LENGTH = 32
"""Characters of a pseudonym."""
MIN_SECRET = 32
"""Characters a key has at least: 16 random bytes in hexadecimal."""
_VALUE_BYTES = 12
_CHECK_BYTES = 4


@dataclass(frozen=True)
class Pseudonyms:
    """The pseudonyms of one domain. Printing it shows no key."""

    domain: str
    _values: bytes = field(repr=False)
    _checks: bytes = field(repr=False)
    fingerprint: str
    """Tells two keys apart, and says nothing about either."""

    @classmethod
    def under(cls, secret: str, domain: str) -> Self:
        """Those that `secret` gives in `domain`."""

        def derived(purpose: str) -> bytes:
            return hmac.digest(secret.encode(), f"sluice pseudonyms 1: {purpose}: {domain}".encode(), "sha256")

        return cls(domain, derived("values"), derived("checks"), derived("fingerprint")[:4].hex())

    def of(self, texts: pa.Array) -> pa.Array:
        """A pseudonym for each text, the same one for the same text; null stays null, and a pseudonym stays what it is."""
        distinct = pc.dictionary_encode(texts)
        value, check = _hmac(self._values), _hmac(self._checks)
        found = [self._of(text, value, check) for text in distinct.dictionary.cast(pa.binary()).to_pylist()]
        return pa.array(found, pa.string()).take(distinct.indices)

    def _of(self, text: bytes, value: Callable[[bytes], bytes], check: Callable[[bytes], bytes]) -> str:
        if len(text) == LENGTH and _is_pseudonym(text, check):
            return text.decode()
        stands = value(text)[:_VALUE_BYTES]
        return (stands + check(stands)[:_CHECK_BYTES]).hex()


def pseudonyms(use_case: UseCase, project: Project, profile: str, root: StorePath) -> Pseudonyms | None:
    """Those of the use case whose folder in the store is `root`; None where it hashes nothing.

    Raises `ConfigError` where there is no key, where it can be guessed, or where the use case's tables were hashed under another one.
    On this machine (profile `local`) a key is made where there is none.
    """
    if not use_case.hashed():
        return None
    name, domain = use_case.privacy.connection, use_case.privacy.domain or use_case.name
    secret = known_secret(name, project.home)
    if secret is None:
        if profile != "local":
            raise ConfigError(
                f"{use_case.name}: columns {', '.join(use_case.hashed())} are hashed under a secret key, and there is none. Make one with "
                "`python -c 'import secrets; print(secrets.token_hex(32))'`, put it as the password into the Airflow connection "
                f"{name!r} (or export {variable_of(name)} for a run by hand), and keep a copy: without it no later row can be told to be the same person's"
            )
        secret = _made(name, project.home)
    found = Pseudonyms.under(secret, domain)
    _check_same(found, use_case, root)
    return found


def known_secret(name: str, home: Path | None) -> str | None:
    """The key in connection `name`, or the one that was made on this machine; None where there is neither. Raises `ConfigError`."""
    if os.environ.get(variable_of(name), "").strip():
        secret = connection(name).password or ""
        if len(secret) < MIN_SECRET:
            raise ConfigError(
                f"connection {name!r}: its password is the key of the hashes, and has {len(secret)} characters; one that can't be guessed is random and has "
                f"{MIN_SECRET} at least. Make one with `python -c 'import secrets; print(secrets.token_hex(32))'`"
            )
        return secret
    path = None if home is None else _path(name, home)
    return path.read_text(encoding="ascii").strip() if path is not None and path.exists() else None


def hashed_under(root: StorePath) -> str | None:
    """Fingerprint of the key that the tables below `root` were hashed under; None where none was."""
    path = root / "privacy.json"
    if not path.exists():
        return None
    document = read_json(path)
    assert isinstance(document, dict)
    return str(document["key"])


def _check_same(found: Pseudonyms, use_case: UseCase, root: StorePath) -> None:
    """A second key would give the same person a second name, and put the person on two sides of a split, in silence."""
    before = hashed_under(root)
    if before is None:
        write_json(root / "privacy.json", {"key": found.fingerprint, "domain": found.domain})
    elif before != found.fingerprint:
        raise ConfigError(
            f"{use_case.name}: its tables were hashed under key {before}, and the key of connection {use_case.privacy.connection!r} in domain "
            f"{found.domain!r} is {found.fingerprint}; give that key (or that domain) back, or, to change it for good, remove {root / 'privacy.json'} "
            "and backfill every partition"
        )


def _made(name: str, home: Path) -> str:
    """A new key, kept for the owner's eyes alone; the one that is there, where another process was quicker."""
    path = _path(name, home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32) + "\n")
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    finally:
        own.unlink()
    return path.read_text(encoding="ascii").strip()


def _path(name: str, home: Path) -> Path:
    return home / "secrets" / f"{name}.key"


def _is_pseudonym(text: bytes, check: Callable[[bytes], bytes]) -> bool:
    try:
        given = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return False
    # Upper case and blanks are hexadecimal digits to Python, and none of a pseudonym's.
    return given.hex().encode() == text and check(given[:_VALUE_BYTES])[:_CHECK_BYTES] == given[_VALUE_BYTES:]


def _hmac(key: bytes) -> Callable[[bytes], bytes]:
    """HMAC-SHA256 under `key`, of 64 bytes at most. The padded key is hashed once and not for each message: 2.5 times as quick as `hmac.digest`."""
    block = key.ljust(64, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def digest(message: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(message)
        second.update(first.digest())
        return second.digest()

    return digest
