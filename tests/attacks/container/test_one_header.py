"""One header per message id, ever: a second one repeats a nonce and lets anybody forge frames (docs/formats.md)."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import secrets
from collections.abc import Callable

import pytest

from ownkey import container, wrapped_key
from ownkey.container import Decryptor, EncryptedDataKey, Encryptor, Header, HeaderReader, HeaderTampered

DATA_KEY = secrets.token_bytes(32)
ENTRY = EncryptedDataKey("test", b"key-1", b"wrapped")
OTHER = EncryptedDataKey("test", b"key-2", b"wrapped")


def encryptor() -> Encryptor:
    return Encryptor(
        DATA_KEY, encryption_context={"ownkey:tenant": "acme"}, encrypted_data_keys=[ENTRY], frame_length=4096
    )


def test_the_same_arguments_never_give_the_same_message_id() -> None:
    assert len({encryptor().header.message_id for _ in range(200)}) == 200


def public_functions(thing: type) -> dict[str, Callable[..., object]]:
    members = inspect.getmembers(thing, lambda member: inspect.isfunction(member) or inspect.ismethod(member))
    return {name: member for name, member in members if not name.startswith("_") or name == "__init__"}


def test_nothing_public_takes_a_message_id_or_a_nonce() -> None:
    """But for the plain record of a header that was read, which nothing tags again."""
    looked_at = 0
    for thing in [getattr(container, name) for name in container.__all__] + [wrapped_key.WrappedKey]:
        if thing in (Header, container.raw_aes_provider_info):  # the latter's IV is that of a key store's wrap
            continue
        functions = public_functions(thing).values() if inspect.isclass(thing) else [thing] * inspect.isfunction(thing)
        for function in functions:
            looked_at += 1
            assert not set(inspect.signature(function).parameters) & {"message_id", "iv", "nonce", "tag", "commitment"}
    assert looked_at > 20


def test_nothing_public_makes_a_header_or_changes_one() -> None:
    makers = []
    for name in container.__all__:
        thing = getattr(container, name)
        if inspect.isclass(thing):
            makers += [
                f"{name}.{method}"
                for method, function in public_functions(thing).items()
                if "Header" in str(inspect.signature(function).return_annotation)
            ]
    # A reader reads one; nothing else gives one out but an Encryptor's property.
    assert makers == ["HeaderReader.feed"]
    header = encryptor().header
    with pytest.raises(dataclasses.FrozenInstanceError):
        header.encrypted_data_keys = (OTHER,)  # type: ignore[misc]
    with pytest.raises(TypeError):
        header.encryption_context["ownkey:tenant"] = "other"  # type: ignore[index]


def test_an_encryptor_s_header_is_one_and_stays_so() -> None:
    one = encryptor()
    before = one.header.to_bytes()
    one.update(bytes(10_000))
    one.finish()
    assert one.header.to_bytes() == before
    with pytest.raises(AttributeError):
        one.header = encryptor().header  # type: ignore[misc]


def test_replacing_the_fields_of_a_header_does_not_change_its_bytes() -> None:
    header = encryptor().header
    replaced = dataclasses.replace(header, encrypted_data_keys=(OTHER,), encryption_context={})
    assert replaced.to_bytes() == header.to_bytes()


def test_replacing_a_wrapped_key_in_the_bytes_is_refused() -> None:
    header = encryptor().header
    rewrapped = HeaderReader().feed(header.to_bytes().replace(ENTRY.to_bytes(), OTHER.to_bytes()))
    assert rewrapped is not None
    assert rewrapped.encrypted_data_keys == (OTHER,)
    with pytest.raises(HeaderTampered):
        Decryptor(rewrapped, DATA_KEY)


def test_an_encryptor_cannot_be_copied() -> None:
    """Two of them would encrypt one frame number with different bytes."""
    one = encryptor()
    for clone in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            clone(one)  # type: ignore[operator]


def test_a_frame_number_is_never_used_twice_after_an_error() -> None:
    one = encryptor()
    with pytest.raises(TypeError):
        one.update_into(bytes(10_000), memoryview(bytes(20_000)))  # type: ignore[arg-type]
    for again in (lambda: one.update(b"x"), one.finish):
        with pytest.raises(ValueError, match="finished"):
            again()
