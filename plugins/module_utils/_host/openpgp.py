# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read OpenPGP public keys far enough to tell whose they are, on hosts that have no gpg (Debian 13 has none).

Packets and fingerprints as in RFC 9580, sections 4.2 and 5.5.4; armor as in section 6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from .._base.errors import FleetError

PUBLIC_KEY = 6
_ARMOR = re.compile(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)


def binary(data: bytes) -> bytes:
    """The packets of *data*, which may be armored; several armored blocks are joined."""
    blocks = _ARMOR.findall(data)
    if not blocks:
        return data
    joined = b""
    for block in blocks:
        text = block.replace(b"\r", b"")
        body = text.split(b"\n\n", 1)[1] if b"\n\n" in text else text
        # A line that starts with "=" is the checksum, which the fingerprint makes needless.
        lines = [line for line in body.split(b"\n") if line and not line.startswith(b"=") and b":" not in line]
        try:
            joined += base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error as error:
            raise FleetError(f"the armored key is damaged ({error}); fetch it again") from error
    return joined


def armored(data: bytes) -> bytes:
    """*data* with armor, as apt reads it from .asc files and rpm imports it."""
    if _ARMOR.search(data):
        return data if data.endswith(b"\n") else data + b"\n"
    encoded = base64.b64encode(data)
    lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
    checksum = base64.b64encode(_crc24(data).to_bytes(3, "big"))
    head, tail = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"
    return b"\n".join([head, b"", *lines, b"=" + checksum, tail, b""])


def _crc24(data: bytes) -> int:
    value = 0xB704CE
    for octet in data:
        value ^= octet << 16
        for _bit in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= 0x1864CFB
    return value & 0xFFFFFF


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, body) of each packet. Raises `FleetError` where *data* is no sequence of packets."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise FleetError("this is no OpenPGP key; give the address of the repository's public key")
        try:
            if head & 0x40:
                tag, size, at = head & 0x3F, *_new_length(data, at + 1)
            else:
                tag = (head >> 2) & 0x0F
                width = (1, 2, 4)[head & 0x03]
                size, at = int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width
        except IndexError as error:
            raise FleetError("the OpenPGP key is cut off; fetch it again") from error
        if at + size > len(data):
            raise FleetError("the OpenPGP key is cut off; fetch it again")
        yield tag, data[at : at + size]
        at += size


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise FleetError("the OpenPGP key has a packet of partial length, which keys never have")


def fingerprints(data: bytes) -> list[str]:
    """The fingerprints of the primary keys in *data*, in upper-case hexadecimal digits."""
    found = []
    for tag, body in packets(binary(data)):
        if tag != PUBLIC_KEY:
            continue
        if body[:1] == b"\x04":
            found.append(_digest("sha1", b"\x99" + len(body).to_bytes(2, "big") + body))
        elif body[:1] == b"\x06":
            found.append(_digest("sha256", b"\x9b" + len(body).to_bytes(4, "big") + body))
    return found


def _digest(name: str, data: bytes) -> str:
    # An identifier, not a protection: FIPS systems forbid sha1 otherwise.
    return hashlib.new(name, data, usedforsecurity=False).hexdigest().upper()


def check(data: bytes, wanted: list[str], origin: str) -> list[str]:
    """The fingerprints in *data*; refuses keys that are not all among *wanted* (if any are named)."""
    found = fingerprints(data)
    if not found:
        raise FleetError(f"{origin} holds no OpenPGP key; give the address of the repository's public key.")
    allowed = {re.sub(r"\s", "", name).upper() for name in wanted}
    unexpected = [name for name in found if name not in allowed]
    if allowed and unexpected:
        raise FleetError(
            f"{origin} holds the key {unexpected[0]}, but {' or '.join(sorted(allowed))} was expected; check where"
            " the key comes from, and change the fingerprint if it is right."
        )
    return found
