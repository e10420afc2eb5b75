"""What is signed with a key of the fleet: which plugin a worker runs, and what a home has sent.

The authority is a key that `fleet init` keeps; hosts know its public half, so that workers can be added without them.
A proof is over the number that the host has made for this one question: an answer to another question is none. That
the machine of a worker tells the truth of its files is what its key stands for; nothing here can prove that.

A home signs each message that lies at the server with the subject that it was sent to. The server holds everybody to
their subjects, but not what it sends itself: an answer goes to whatever subject its question has named.
"""

from __future__ import annotations

import os
from base64 import b32decode, b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from typing import Any, Final, Self

import attrs
import orjson

from ally_plugins.contract.values.errors import ConfigError, ProtocolError
from ally_plugins.contract.wording import describe

__all__ = ["Certificate", "Proof", "check_message", "message_headers", "new_seed", "public_key"]

_CERTIFIED: Final = "ally-plugins worker 1"
_PROVED: Final = "ally-plugins proof 1"
_SENT: Final = "ally-plugins message 1"
_CERTIFICATE: Final = "Ally-Certificate"
_SIGNATURE: Final = "Ally-Signature"
_CHECKSUM_BYTES: Final = 2


def _keys() -> Any:
    try:
        return import_module("nkeys")  # it has no types
    except ImportError as error:
        raise ConfigError("a fleet needs nkeys, which is not installed: pip install 'ally-plugins[fleet]'") from error


def new_seed() -> str:
    """Return the secret half of a new key."""
    keys = _keys()
    seed: str = keys.encode_seed(os.urandom(32), keys.PREFIX_BYTE_USER).decode()
    return seed


def public_key(seed: str, name: str) -> str:
    """Return the public half of a key. Raises ConfigError for a seed that is none, of whom `name` says."""
    keys = _keys()
    try:
        key: str = keys.from_seed(bytearray(seed.encode())).public_key.decode()
    except (keys.NkeysError, ValueError) as error:
        raise ConfigError(f"the seed of {describe(name)} is none: {error}", path=name) from error
    return key


def _sign(seed: str, parts: list[Any]) -> str:
    signature: bytes = _keys().from_seed(bytearray(seed.encode())).sign(orjson.dumps(parts))
    return b64encode(signature).decode()


def _check(public: str, parts: list[Any], signature: Any, what: str) -> None:
    """Raise ProtocolError where that is not what the key has signed."""
    signing: Any = import_module("nacl.signing")  # what `nkeys` is made of: that verifies with a secret half only
    try:
        key = signing.VerifyKey(b32decode(public)[1:-_CHECKSUM_BYTES])  # the first says whose kind of key it is
        key.verify(orjson.dumps(parts), b64decode(signature, validate=True))
    # What a key of a wrong form, a signature of a wrong length or nonsense raises is the library's affair.
    except Exception as error:
        raise ProtocolError(f"{what} is not signed by the key {describe(public)}") from error


@attrs.frozen
class Certificate:
    """A worker's name and key, and the plugins that it may serve; a home's names none."""

    worker: str
    public: str
    plugins: tuple[str, ...]
    signature: str = ""

    @property
    def _parts(self) -> list[Any]:
        return [_CERTIFIED, self.worker, self.public, self.plugins]

    def signed(self, authority: str) -> str:
        """Return it as text, signed with the authority's seed."""
        signed = attrs.evolve(self, signature=_sign(authority, self._parts))
        return orjson.dumps(attrs.astuple(signed, recurse=False)).decode()

    @classmethod
    def read(cls, text: Any) -> Self:
        """Read it; the signature is not looked at. Raises ProtocolError."""
        try:
            worker, public, plugins, signature = orjson.loads(text)
            texts = [worker, public, *plugins, signature]
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"the certificate of a worker is none: {describe(text)}") from error
        if not (isinstance(plugins, list) and all(isinstance(each, str) for each in texts)):
            raise ProtocolError(f"the certificate of a worker is none: {describe(text)}")
        return cls(worker, public, tuple(plugins), signature)

    def check(self, authority: str) -> None:
        """Raise ProtocolError where the authority has not signed it."""
        who = "worker" if self.plugins else "home"
        _check(authority, self._parts, self.signature, f"the certificate of the {who} {describe(self.worker)}")


@attrs.frozen
class Proof:
    """A worker's answer to a host that asked for a plugin: what it runs, for this host and this question."""

    nonce: str
    host: str
    plugin: str
    version: str
    digest: str
    certificate: str
    instance: str
    """Another one after each start of the worker: links of the one before are gone."""
    signature: str = ""

    @property
    def _parts(self) -> list[Any]:
        return [_PROVED, self.nonce, self.host, self.plugin, self.version, self.digest, self.certificate, self.instance]

    def signed(self, seed: str) -> bytes:
        """Return it as JSON, signed with the worker's seed."""
        return orjson.dumps(attrs.asdict(attrs.evolve(self, signature=_sign(seed, self._parts))))

    @classmethod
    def read(cls, value: Any) -> Self:
        """Read it; the signature is not looked at. Raises ProtocolError."""
        names = [field.name for field in attrs.fields(cls)]
        if not (isinstance(value, dict) and set(value) == {*names} and all(isinstance(value[n], str) for n in names)):
            raise ProtocolError(f"expected the proof of a worker, found {describe(value)}")
        return cls(**value)

    def check(self, authority: str, *, nonce: str, host: str, plugin: str, digest: str) -> Certificate:
        """Return who has answered. Raises ProtocolError where that is nobody who may, or the answer is to another one.

        The text says what was found and what was expected.
        """
        certificate = Certificate.read(self.certificate)
        certificate.check(authority)
        who = f"the worker {describe(certificate.worker)}"
        if plugin not in certificate.plugins:
            raise ProtocolError(f"{who} may not serve {plugin!r}")
        _check(certificate.public, self._parts, self.signature, f"what {who} says")
        if (self.nonce, self.host) != (nonce, host):
            raise ProtocolError(f"{who} has answered another question")
        if self.plugin != plugin:
            raise ProtocolError(f"{who} runs {describe(self.plugin)}, expected {plugin!r}")
        if self.digest != digest:
            text = f"{who} runs files of {plugin!r} with the digest {describe(self.digest)}, and {digest} was agreed to"
            raise ProtocolError(text)
        return certificate


def message_headers(seed: str, certificate: str, subject: str, payload: bytes) -> dict[str, str]:
    """Return the headers by which a home signs a message to a subject."""
    return {_CERTIFICATE: certificate, _SIGNATURE: _sign(seed, _message_parts(subject, payload))}


def check_message(authority: str, home: str, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> None:
    """Raise ProtocolError for a message that was not sent to this subject by this home."""
    text = (headers or {}).get(_CERTIFICATE)
    if text is None:
        raise ProtocolError(f"a message that nobody has signed, expected one of the home {describe(home)}")
    certificate = _certified(authority, text)
    if certificate.plugins or certificate.worker != home:
        raise ProtocolError(f"a message of {describe(certificate.worker)}, expected one of the home {describe(home)}")
    signature = (headers or {}).get(_SIGNATURE)
    _check(certificate.public, _message_parts(subject, payload), signature, f"a message of the home {describe(home)}")


def _message_parts(subject: str, payload: bytes) -> list[Any]:
    return [_SENT, subject, sha256(payload).hexdigest()]


@lru_cache(maxsize=1024)
def _certified(authority: str, text: str) -> Certificate:
    certificate = Certificate.read(text)
    certificate.check(authority)
    return certificate
