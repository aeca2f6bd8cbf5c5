# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of repositories, known by their fingerprints on hosts without gpg."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._host import openpgp

DEBIAN = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# An ed25519 key that was made for this test.
KEY = base64.b64decode(
    "mDMEawBd1xYJKwYBBAHaRw8BAQdA+3dRX9Rl8A6UY7QukZ8+MqZzfp6GT1+GUscd4KoiNsW0Fm5vYm9keUBleGFtcGxlLmludmFs"
    "aWSIkAQTFggAOBYhBMF/N4SRjn/SuWR8HFCtuaRjiB+DBQJrAF3XAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJEFCtuaRj"
    "iB+D8LIBAKtnNm+1iFLHWJmg4hGp8xuFVufgyqbqIyJyEiwTofH9AP93Ho9BB39iFtJ3ytGJ7KadpJ74kHM2vKwfSbiXw9D3BQ=="
)
FINGERPRINT = "C17F3784918E7FD2B9647C1C50ADB9A463881F83"


def test_fingerprint() -> None:
    assert openpgp.fingerprints(KEY) == [FINGERPRINT]


def test_armor_there_and_back() -> None:
    armored = openpgp.armored(KEY)
    assert armored.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n")
    assert openpgp.binary(armored) == KEY
    assert openpgp.armored(armored) == armored


def test_two_armored_keys_in_one_file() -> None:
    assert openpgp.fingerprints(openpgp.armored(KEY) * 2) == [FINGERPRINT] * 2


def test_armor_with_headers_and_windows_lines() -> None:
    text = openpgp.armored(KEY).replace(b"\n\n", b"\nComment: made by hand\n\n", 1).replace(b"\n", b"\r\n")
    assert openpgp.fingerprints(text) == [FINGERPRINT]


def test_expected_key_is_accepted_in_any_spelling() -> None:
    spaced = " ".join(FINGERPRINT[at : at + 4] for at in range(0, 40, 4)).lower()
    assert openpgp.check(KEY, [spaced], "there") == [FINGERPRINT]
    assert openpgp.check(KEY, [], "there") == [FINGERPRINT]


def test_another_key_is_refused() -> None:
    with pytest.raises(FleetError, match=f"there holds the key {FINGERPRINT}, but {'0' * 40} was expected"):
        openpgp.check(KEY, ["0" * 40], "there")


@pytest.mark.parametrize("data", [b"<html>404</html>", b"", b"\x99"])
def test_what_is_no_key(data: bytes) -> None:
    with pytest.raises(FleetError, match="OpenPGP key"):
        openpgp.check(data, [FINGERPRINT], "there")


def test_key_that_is_cut_off() -> None:
    with pytest.raises(FleetError, match="cut off"):
        openpgp.fingerprints(KEY[: len(KEY) // 2])


@pytest.mark.skipif(not DEBIAN.exists(), reason="this machine has no Debian keyring")
def test_key_ring_of_debian() -> None:
    assert "4D64FEC119C2029067D6E791F8D2585B8783D481" in openpgp.fingerprints(DEBIAN.read_bytes())
