"""JSON Schemas of the wire's structs. msgspec makes those of plain types, but describes only what it could also read;
and the wire's unions have structs that are told apart by what their ``type`` says."""

from __future__ import annotations

from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

Json = dict[str, Any]
REF = "#/components/schemas/"


class Schemas:
    """``components`` are the structs that were met, by their names."""

    def __init__(self) -> None:
        self.components: Json = {}
        self._met: dict[str, type[msgspec.Struct]] = {}

    def of(self, kind: Any) -> Json:
        """The schema of a type: a struct, a plain type, or lists, dicts and unions of such."""
        origin, parts = get_origin(kind), get_args(kind)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._struct(kind)
        if origin in (Union, UnionType):
            return {"anyOf": [self.of(part) for part in parts if part is not msgspec.UnsetType]}
        if origin is list:
            return {"type": "array", "items": self.of(parts[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(parts[1])}
        return msgspec.json.schema(kind)

    def _struct(self, kind: type[msgspec.Struct]) -> Json:
        name = kind.__name__
        assert self._met.setdefault(name, kind) is kind, f"two structs of the wire are called {name}"
        if name not in self.components:
            self.components[name] = {}  # one that holds itself refers to this
            self.components[name] = self._object(kind)
        return {"$ref": REF + name}

    def _object(self, kind: type[msgspec.Struct]) -> Json:
        config = kind.__struct_config__
        properties: Json = {config.tag_field: {"const": config.tag}} if config.tag_field else {}
        required = list(properties)
        for field in msgspec.structs.fields(kind):
            schema = self.of(field.type)
            if field.required:
                required.append(field.encode_name)
            elif isinstance(field.default, str | int | float):
                schema = {**schema, "default": field.default}
            properties[field.encode_name] = schema
        told: Json = {"type": "object", "properties": properties, "required": required}
        if config.forbid_unknown_fields:
            told["additionalProperties"] = False
        if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("):
            told["description"] = " ".join(kind.__doc__.split())
        return told
