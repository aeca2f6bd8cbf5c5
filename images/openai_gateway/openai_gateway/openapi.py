# SPDX-License-Identifier: GPL-3.0-or-later
"""``/openapi.json``: the handlers' own models, so that the document cannot differ from what is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema


class Endpoint(NamedTuple):
    """A POST and what it takes."""

    summary: str
    body: type[BaseModel]


ERROR = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}},
    "required": ["error"],
}
ANSWERS = {
    "200": {"description": "The answer"},
    "4XX": {"description": "The request is at fault", "content": {"application/json": {"schema": ERROR}}},
    "5XX": {"description": "Triton is at fault", "content": {"application/json": {"schema": ERROR}}},
}


def document(app: FastAPI, endpoints: Mapping[str, Endpoint], models: Sequence[str]) -> dict[str, Any]:
    """What *app* has, and *endpoints* by path; *models*: the names of what is served."""
    kinds = {endpoint.body for endpoint in endpoints.values()}
    refs, schemas = models_json_schema(
        [(kind, "validation") for kind in sorted(kinds, key=lambda kind: kind.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    for schema in schemas.get("$defs", {}).values():
        if "model" in schema.get("required", ()):
            schema["properties"]["model"] = {"type": "string", "enum": list(models)}
    found = app.openapi()
    for path, endpoint in endpoints.items():
        body = {"content": {"application/json": {"schema": refs[endpoint.body, "validation"]}}, "required": True}
        found["paths"][path] = {
            "post": {
                "summary": endpoint.summary,
                "operationId": path.strip("/").replace("/", "_"),
                "requestBody": body,
                "responses": ANSWERS,
            }
        }
    parts = found.setdefault("components", {})
    parts.setdefault("schemas", {}).update(schemas.get("$defs", {}))
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}]
    return found
