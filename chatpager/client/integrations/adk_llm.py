"""A model of google-adk's over the Responses WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from pydantic import Field, TypeAdapter

from chatpager.client.client import AsyncClient
from chatpager.client.refusals import ClientError
from chatpager.client.reply import Reply


class ChatPagerLlm(BaseLlm):
    """A model over the Responses WebSocket. One instance serves any number of agents at once.

    ``options`` are fields of ``response.create``, such as ``{"max_output_tokens": 200}``. An agent's ``output_schema``
    is followed token by token. A server that refuses, or is not there, is a response with ``error_code`` and
    ``error_message``: the wire's, or ClientError's.
    """

    model: str = "chatpager/default"
    base_url: str = "http://127.0.0.1:8000"
    api_key: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def supported_models(cls) -> list[str]:
        return [r"chatpager/.*"]

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        config = llm_request.config
        body = {**_sampling(config), **_form(config), **_asked(llm_request)}
        body["model"] = self.model.removeprefix("chatpager/")
        try:
            async with (
                AsyncClient(self.base_url, api_key=self.api_key) as client,
                client.respond(**{**body, **self.options}) as answer,
            ):
                async for piece in answer:
                    if stream:
                        content = types.Content(role="model", parts=[types.Part(text=piece)])
                        yield LlmResponse(content=content, partial=True)
        except ClientError as error:
            code = error.code or str(error.status)  # what stands before a server may refuse in a form of its own
            yield LlmResponse(error_code=code, error_message=str(error))
            return
        yield _whole(answer.reply)


def _asked(request: LlmRequest) -> dict[str, Any]:
    tools = [tool for tool in request.config.tools or () if isinstance(tool, types.Tool)]
    shown = [_tool(one) for tool in tools for one in tool.function_declarations or ()]
    body: dict[str, Any] = {"input": [item for content in request.contents for item in _items(content)]}
    if head := text_of(request.config.system_instruction):
        body["instructions"] = head
    if not shown:
        return body
    calling = request.config.tool_config and request.config.tool_config.function_calling_config
    mode = calling.mode.value if calling and calling.mode else "AUTO"
    # What calls cannot be made to do here the server refuses by name.
    return {**body, "tools": shown, "tool_choice": {"NONE": "none", "ANY": "required"}.get(mode, "auto")}


def _sampling(config: types.GenerateContentConfig) -> dict[str, Any]:
    wanted = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": None if config.top_k is None else int(config.top_k),
        "presence_penalty": config.presence_penalty,
        "frequency_penalty": config.frequency_penalty,
        "max_output_tokens": config.max_output_tokens,
        "stop": config.stop_sequences,
        "seed": config.seed,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _form(config: types.GenerateContentConfig) -> dict[str, Any]:
    """What an agent's ``output_schema`` came to be."""
    wanted = config.response_json_schema or config.response_schema
    if wanted:
        schema = wanted if isinstance(wanted, dict) and not _is_googles(wanted) else _closed(_schema(wanted))
        return {"text": {"format": {"type": "json_schema", "name": "answer", "schema": schema}}}
    return {"text": {"format": {"type": "json_object"}}} if config.response_mime_type == "application/json" else {}


def _schema(wanted: Any) -> Any:
    """Of a type, such as a pydantic model or a list of them, or of Google's own kind."""
    if isinstance(wanted, dict):
        wanted = types.Schema.model_validate(wanted)
    if isinstance(wanted, types.Schema):
        return wanted.json_schema.model_dump(mode="json", by_alias=True, exclude_none=True)
    return TypeAdapter(wanted).json_schema()


def _is_googles(schema: dict[str, Any]) -> bool:
    """Types in capitals: a ``types.Schema`` written as a dictionary."""
    return isinstance(kind := schema.get("type"), str) and kind.isupper()


def _closed(schema: Any) -> Any:
    """With no fields but those that a type has; JSON Schema lets a model invent more, without end."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _closed(value) for name, value in schema.items()}
    has_fields = schema.get("type") == "object" and "properties" in schema
    return {"additionalProperties": False, **inner} if has_fields else inner


def _tool(declared: types.FunctionDeclaration) -> dict[str, Any]:
    schema = declared.parameters_json_schema
    if schema is None and declared.parameters is not None:
        schema = _schema(declared.parameters)
    return {"type": "function", "name": declared.name, "description": declared.description, "parameters": schema}


def _items(content: types.Content) -> list[dict[str, Any]]:
    """A content as items of the Responses API."""
    role = "assistant" if content.role == "model" else "user"
    text = "".join(part.text for part in content.parts or () if part.text and not part.thought)
    items: list[dict[str, Any]] = [{"type": "message", "role": role, "content": text}] if text else []
    for part in content.parts or ():
        if part.inline_data or part.file_data:
            raise ValueError("chatpager serves text: it takes no images and no files")
        if call := part.function_call:
            arguments = _json(call.args or {})
            items.append({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments})
        if result := part.function_response:
            items.append({"type": "function_call_output", "call_id": result.id, "output": _json(result.response)})
    return items


def _json(value: Any) -> str:
    """A tool may give whatever Python has."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _whole(reply: Reply) -> LlmResponse:
    if reply.status == "failed":
        return LlmResponse(error_code=reply.response["error"]["code"], error_message=reply.error)
    parts = [types.Part(text=reply.text)] if reply.text else []
    for call in reply.calls:
        called = types.FunctionCall(id=call["call_id"], name=call["name"], args=json.loads(call["arguments"]))
        parts.append(types.Part(function_call=called))
    finish = types.FinishReason.MAX_TOKENS if reply.status == "incomplete" else types.FinishReason.STOP
    return LlmResponse(
        content=types.Content(role="model", parts=parts),
        finish_reason=finish,
        usage_metadata=types.GenerateContentResponseUsageMetadata(
            prompt_token_count=reply.input_tokens,
            candidates_token_count=reply.output_tokens,
            total_token_count=reply.input_tokens + reply.output_tokens,
            cached_content_token_count=reply.cached_tokens,
        ),
        custom_metadata={"chatpager": {"response_id": reply.id, "cache": reply.receipt}},
    )


def text_of(instruction: Any) -> str:
    """Of a system instruction: ADK makes a text of it."""
    return instruction if isinstance(instruction, str) else ""
