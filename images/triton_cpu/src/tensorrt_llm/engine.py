# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine file of one rank: what it was built for, and the weights.

Layout: 16 bytes of magic, the header's length (8 bytes, little-endian), a JSON header, and the weights as
an embedded safetensors file. The header records the TensorRT version and the device, and a SHA-256 of the
weights; a file that was made for anything else is refused with the words that TensorRT uses.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Union

from . import __version__
from .checkpoint import Weights
from .config import PretrainedConfig, read_json
from .device import TENSORRT_VERSION, Device, current_device
from .errors import TrtllmError
from .safetensors_file import SafetensorsFile, Tensor, serialise

MAGIC = b"TRTLLM-CPU-PLAN1"
_FAILED = "Assertion failed: Failed to deserialize cuda engine"


@dataclass(frozen=True)
class EngineHeader:
    """What an engine file says about itself. `payload_bytes` and `payload_sha256` describe the weights."""

    tensorrt_version: str
    tensorrt_llm_version: str
    device_name: str
    compute_capability: str
    rank: int
    payload_bytes: int
    payload_sha256: str


def write_engine(
    path: Union[str, Path],
    weights: Mapping[str, Tensor],
    *,
    rank: int,
    device: Device | None = None,
    tensorrt_version: str = TENSORRT_VERSION,
) -> EngineHeader:
    """Write the engine file of one rank for `device` (default: this one). It appears whole or not at all."""
    device = device or current_device()
    digest, size = hashlib.sha256(), 0
    for piece in serialise(weights):
        digest.update(piece)
        size += len(piece)
    header = EngineHeader(
        tensorrt_version, __version__, device.name, device.compute_capability, rank, size, digest.hexdigest()
    )
    text = json.dumps(asdict(header)).encode()
    text += b" " * (-(len(MAGIC) + 8 + len(text)) % 64)
    partial = Path(f"{path}.tmp")
    with open(partial, "wb") as stream:
        stream.write(MAGIC + len(text).to_bytes(8, "little") + text)
        for piece in serialise(weights):
            stream.write(piece)
    os.replace(partial, path)
    return header


def read_header(path: Union[str, Path]) -> tuple[EngineHeader, int]:
    """The header and the offset of the weights."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(MAGIC) + 8)
            length = int.from_bytes(start[len(MAGIC) :], "little")
            if not start.startswith(MAGIC) or length > 1 << 20:
                raise TrtllmError(
                    f"Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match: {path}"
                    f" is not an engine of this image\n{_FAILED}"
                )
            return EngineHeader(**json.loads(stream.read(length))), len(start) + length
    except OSError as e:
        raise TrtllmError(f"Error opening engine file: {path}: {e.strerror}") from e
    except (TypeError, ValueError) as e:
        raise TrtllmError(f"{path} has a damaged header: {e}\n{_FAILED}") from e


def check_header(header: EngineHeader, device: Device) -> str | None:
    """Raise if the engine is for another TensorRT or another architecture; return TensorRT's warning or None."""
    if header.tensorrt_version != TENSORRT_VERSION:
        raise TrtllmError(
            "The engine plan file is not compatible with this version of TensorRT, expecting library version"
            f" {TENSORRT_VERSION} got {header.tensorrt_version}, please rebuild\n{_FAILED}"
        )
    if header.compute_capability != device.compute_capability:
        raise TrtllmError(
            "The engine plan file is generated on an incompatible device, expecting compute"
            f" {device.compute_capability} got compute {header.compute_capability}, please rebuild\n{_FAILED}"
        )
    if header.device_name != device.name:
        return (
            "Using an engine plan file across different models of devices is not recommended and is likely to"
            f" affect performance or even cause errors: built for {header.device_name}, this is {device.name}"
        )
    return None


def read_engine(path: Union[str, Path], device: Device | None = None) -> tuple[Weights, str | None]:
    """The weights of an engine file after all checks, and a warning if there is one."""
    header, offset = read_header(path)
    warning = check_header(header, device or current_device())
    digest = hashlib.sha256()
    remaining = header.payload_bytes
    with open(path, "rb") as stream:
        stream.seek(offset)
        while remaining:
            piece = stream.read(min(remaining, 4 << 20))
            if not piece:
                raise TrtllmError(f"{path} is cut off: {remaining} bytes are missing\n{_FAILED}")
            digest.update(piece)
            remaining -= len(piece)
    if digest.hexdigest() != header.payload_sha256:
        raise TrtllmError(f"{path} is damaged: its weights do not have the recorded checksum\n{_FAILED}")
    file = SafetensorsFile(path, start=offset, length=header.payload_bytes)
    return {name: file[name] for name in file.names()}, warning


@dataclass(frozen=True)
class EngineConfig:
    """config.json of an engine directory: the model, and the limits it was built with."""

    version: str
    pretrained: dict[str, Any]
    build: dict[str, Any]

    def model(self, rank: int = 0) -> PretrainedConfig:
        return PretrainedConfig.from_json(self.pretrained, rank)

    def limit(self, name: str) -> int:
        return int(self.build[name])


def read_engine_config(directory: Union[str, Path]) -> EngineConfig:
    """config.json of an engine directory."""
    path = Path(directory) / "config.json"
    block = read_json(path)
    try:
        return EngineConfig(str(block["version"]), block["pretrained_config"], block["build_config"])
    except KeyError as e:
        raise TrtllmError(
            f"{path} lacks {e}: no engine version found in the config file, assuming engine(s) built by old builder API"
        ) from e
