# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rank of a world holds what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import TrtllmError


@dataclass(frozen=True)
class Mapping:
    """A place in a world of tp_size * pp_size ranks; rank = pp_rank * tp_size + tp_rank."""

    rank: int = 0
    tp_size: int = 1
    pp_size: int = 1

    @property
    def world_size(self) -> int:
        return self.tp_size * self.pp_size

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp_size

    @property
    def pp_rank(self) -> int:
        return self.rank // self.tp_size

    @property
    def is_first_stage(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    def layers(self, count: int) -> range:
        """The transformer layers of this rank's pipeline stage."""
        if count % self.pp_size:
            raise TrtllmError(
                f"{count} layers cannot be split evenly over pp_size {self.pp_size}; choose a divisor of {count}"
            )
        each = count // self.pp_size
        return range(self.pp_rank * each, (self.pp_rank + 1) * each)

    def as_config(self) -> dict[str, Any]:
        """The `mapping` block of a checkpoint's config.json, under upstream's names."""
        return {
            "world_size": self.world_size, "gpus_per_node": 8, "cp_size": 1, "tp_size": self.tp_size,
            "pp_size": self.pp_size, "moe_tp_size": self.tp_size, "moe_cluster_size": 1, "moe_ep_size": 1,
            "attn_tp_size": self.tp_size, "attn_cp_size": 1,
        }  # fmt: skip

    @staticmethod
    def from_config(block: dict[str, Any], rank: int = 0) -> Mapping:
        return Mapping(rank, int(block.get("tp_size", 1)), int(block.get("pp_size", 1)))
