# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness that means something: a token from every backend, not a status code.

Triton goes on saying ready while its Python stubs are dead, so each replica is asked to generate one token;
one that has just answered a request needs no such question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from openai_gateway.errors import ApiError
from openai_gateway.generation import GenerateRequest, ServedModel
from openai_gateway.replicas import Draining, Replica
from openai_gateway.triton import Unreachable

PROOF_LASTS = 10.0  # seconds for which an answered request proves a replica ready
PATIENCE = 15.0  # seconds for the one token
ONE_TOKEN = GenerateRequest(text="Hi", chat=False, max_tokens=1, limit_param="", sampling={}, optional={"top_k": 1})


async def ready(
    models: Sequence[ServedModel], *, any_model: bool, drained: bool = False
) -> tuple[bool, dict[str, Any]]:
    """Whether every model (*any_model*: at least one) has a replica that answers, and the details.

    *drained*: one that somebody has taken out of service is enough, as nothing is wrong with it.
    """
    replicas = [(model, replica) for model in models for replica in model.replicas.replicas]
    states = await asyncio.gather(*(_state(model, replica) for model, replica in replicas))
    detail: dict[str, dict[str, str]] = {model.name: {} for model in models}
    for (model, replica), state in zip(replicas, states, strict=True):
        detail[model.name][replica.url] = state
    enough = {"ready", "draining"} if drained else {"ready"}
    served = [not enough.isdisjoint(found.values()) for found in detail.values()]
    is_ready = any(served) if any_model else all(served)
    return is_ready, {"status": "ready" if is_ready else "not ready", "models": detail}


async def _state(model: ServedModel, replica: Replica) -> str:
    """Return "ready", or why not."""
    if model.replicas.drains(replica):
        return "draining"  # and left alone, so that it can stop
    if model.replicas.proved_within(replica, PROOF_LASTS):
        return "ready"
    async with replica.probing:
        if model.replicas.proved_within(replica, PROOF_LASTS):  # somebody else has just asked
            return "ready"
        try:
            async with asyncio.timeout(PATIENCE):
                if await model.one_token(replica, ONE_TOKEN) < 1:
                    raise ApiError(502, "the model wrote no token", code="upstream_error")
        except Unreachable as error:
            problem = str(error)
        except ApiError as error:
            if error.code == "overloaded":
                return "ready"  # its queue is full of requests that it works on
            problem = error.message
        except TimeoutError:
            # It may only be busy, so it does not rest.
            return f"no token within {PATIENCE:.0f} s"
        else:
            model.replicas.succeeded(replica)
            return "ready"
        model.replicas.failed(replica)
        return problem


def replica_states(models: Sequence[ServedModel], draining: Draining) -> list[dict[str, Any]]:
    """What is known of each replica without asking it, over all workers and models."""
    served: dict[str, list[tuple[ServedModel, Replica]]] = {}
    for model in models:
        for replica in model.replicas.replicas:
            served.setdefault(replica.url, []).append((model, replica))
    return [
        {
            "url": url,
            "models": [model.name for model, _ in uses],
            "outstanding": uses[0][1].outstanding,
            "draining": draining.everywhere(url),
            "resting": any(model.replicas.resting(replica) for model, replica in uses),
            "weights": {model.name: model.replicas.weight(replica) for model, replica in uses},
        }
        for url, uses in served.items()
    ]
