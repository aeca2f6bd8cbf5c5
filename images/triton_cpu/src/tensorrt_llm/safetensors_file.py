# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and write safetensors files with numpy alone.

A file is an 8-byte little-endian header length, a JSON header and the tensors' bytes. Reading maps the
file, so a rank that takes its slice of a large tensor touches no other byte. bfloat16, which numpy lacks,
is held as its 16-bit pattern (uint16) and widened exactly to float32.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from .errors import TrtllmError

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

# The data types of the format, and how numpy stores each.
STORAGE: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
        "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip
# The names that configuration files use for the types that weights come in.
TYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Tensor:
    """An array together with the type it has in a file (bfloat16 is stored as uint16)."""

    dtype: str
    data: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def float32(self) -> Float32:
        """The values as float32; exact for float16, bfloat16 and small integers."""
        if self.dtype == "BF16":
            wide = self.data.astype(np.uint32) << np.uint32(16)
            widened: Float32 = wide.view(np.float32)
            return widened
        return np.ascontiguousarray(self.data, dtype=np.float32)

    def to(self, type_name: str) -> Tensor:
        """The same values rounded to nearest even in 'float32', 'float16' or 'bfloat16'."""
        target = TYPE_NAMES[type_name]
        return self if target == self.dtype else from_float32(self.float32(), type_name)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self.dtype, self.data[index])


def from_float32(values: Float32, type_name: str) -> Tensor:
    """Round float32 values to a storage type, to nearest even."""
    target = TYPE_NAMES[type_name]
    if target == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        quiet = (bits | np.uint32(0x00400000)) >> np.uint32(16)
        narrow = np.where(np.isnan(values), quiet, rounded >> np.uint32(16))
        return Tensor(target, narrow.astype(np.uint16))
    with np.errstate(over="ignore"):
        return Tensor(target, np.asarray(values).astype(STORAGE[target]))


class SafetensorsFile:
    """One mapped file. `name in file`, `file[name]` and `file.names()`."""

    def __init__(self, path: Union[str, Path], *, start: int = 0, length: int | None = None) -> None:
        """Map `path`; `start` and `length` (bytes) select a file embedded in a larger one."""
        self.path = Path(path)
        try:
            with open(self.path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size == 0:
                    raise TrtllmError(f"{self.path} is empty; download the checkpoint again")
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as e:
            raise TrtllmError(f"{self.path} cannot be read: {e.strerror}") from e
        end = size if length is None else start + length
        self._header, self._data = _parse_header(self.path, self._map, start, min(end, size))
        self.metadata: dict[str, str] = self._header.pop("__metadata__", {})

    def names(self) -> Iterator[str]:
        return iter(self._header)

    def __contains__(self, name: object) -> bool:
        return name in self._header

    def __getitem__(self, name: str) -> Tensor:
        """A read-only view of the mapped bytes."""
        try:
            entry = self._header[name]
        except KeyError:
            raise TrtllmError(f"{self.path} holds no tensor {name!r}") from None
        begin, end = entry["data_offsets"]
        dtype, shape = STORAGE[entry["dtype"]], tuple(entry["shape"])
        count = (end - begin) // dtype.itemsize
        flat = np.frombuffer(self._map, dtype, count=count, offset=self._data + begin) if count else np.empty(0, dtype)
        return Tensor(entry["dtype"], flat.reshape(shape))


def _parse_header(path: Path, data: mmap.mmap, start: int, end: int) -> tuple[dict[str, Any], int]:
    """The header and the offset of the first tensor byte; every offset is checked against the file's size."""
    if data[start : start + len(_LFS_POINTER)] == _LFS_POINTER:
        raise TrtllmError(f"{path} is a git-lfs pointer, not weights; run `git lfs pull` where it was cloned")
    if end - start < 8:
        raise TrtllmError(f"{path} is too short for a safetensors file")
    length = int.from_bytes(data[start : start + 8], "little")
    first = start + 8 + length
    if first > end:
        raise TrtllmError(f"{path} is not a safetensors file, or its header is cut off")
    try:
        header: dict[str, Any] = json.loads(data[start + 8 : first])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, stop = entry["data_offsets"]
            expected = int(np.prod(entry["shape"], dtype=np.int64)) * STORAGE[entry["dtype"]].itemsize
            if not 0 <= begin <= stop or stop - begin != expected:
                raise TrtllmError(f"{path}: tensor {name!r} has inconsistent offsets")
            if first + stop > end:
                raise TrtllmError(f"{path} is cut off: tensor {name!r} ends {first + stop - end} bytes after it")
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise TrtllmError(f"{path} has no valid safetensors header ({e})") from e
    return header, first


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes]:
    """The bytes of a file, piece by piece: largest alignment first, then by name, as the format asks."""
    order = sorted(tensors, key=lambda name: (-STORAGE[tensors[name].dtype].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        size = tensor.data.nbytes
        header[name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        tensor = tensors[name]
        yield np.ascontiguousarray(tensor.data, dtype=STORAGE[tensor.dtype]).tobytes()


def write(path: Union[str, Path], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file whole, then put it in place, so that no half-written file carries the name."""
    partial = Path(f"{path}.tmp")
    with open(partial, "wb") as stream:
        for piece in serialise(tensors, metadata):
            stream.write(piece)
    os.replace(partial, path)
