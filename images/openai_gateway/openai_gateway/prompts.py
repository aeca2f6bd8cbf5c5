# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a client asked for to what is sent to Triton: one request for each answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openai_gateway.errors import ApiError, unsupported
from openai_gateway.generation import GenerateRequest, ServedModel
from openai_gateway.guides import call_guide
from openai_gateway.schema import ChatRequest, CompletionRequest, GenerationRequest, NamedTool
from openai_gateway.tools import FAMILIES, Family, demanded, family_of

THOUGHT_WITHIN = 64  # characters at the end of a prompt that opens the model's thoughts
DEFAULT_MAX_TOKENS = {True: 1024, False: 16}  # in chat or not, as OpenAI has it


@dataclass(frozen=True)
class Plan:
    """All answers to one request of a client."""

    requests: list[GenerateRequest]  # each prompt's answers stand together
    each: int  # answers to one prompt
    keep: int  # of which so many are shown
    family: Family | None = None  # how calls are written, where functions were offered
    functions: tuple[str, ...] = ()
    named: bool = False  # one function was demanded by name
    only_one: bool = False  # call
    begun: str = ""  # what the answer starts with, written by the gateway
    thinks: bool = False  # the model's family marks its thoughts
    thinking: bool = False  # the prompt has opened them

    @property
    def one(self) -> bool:
        """Whether there is one answer only."""
        return len(self.requests) == 1


def plan(
    model: ServedModel, body: GenerationRequest, request_id: str, trace: Mapping[str, str], *, stream: bool
) -> Plan:
    """What to ask Triton for. Raises ApiError 400."""
    body.check_extra()
    if isinstance(body, ChatRequest):
        return _chat(model, body, request_id, trace, stream=stream)
    assert isinstance(body, CompletionRequest)
    each = body.best_of or body.choices
    ranked = each > body.choices
    requests: list[GenerateRequest] = []
    for prompt in body.prompts:
        text = _truncated(model, _text(model, prompt), body.truncate_prompt_tokens)
        base = _base(model, body, text, request_id, trace, stream=stream, logprobs=body.logprobs is not None or ranked)
        requests += _answers(model, base if not body.echo else base._replace(echo=text), body, each)
    return Plan(requests, each, body.choices)


def _text(model: ServedModel, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    limit = model.max_seq_len
    if limit is not None and len(prompt) > limit:  # before anything is done with so many
        message = f"The model '{model.name}' has a context of {limit} tokens; this prompt has {len(prompt)}."
        raise ApiError(400, message, param="prompt", code="context_length_exceeded")
    return model.tokenizer.text_of(prompt, "prompt")


def _truncated(model: ServedModel, text: str, tokens: int | None) -> str:
    """The end of *text* that has so many tokens."""
    if tokens is None:
        return text
    # What is far before it is not looked at: a token has four characters on average.
    ids = model.tokenizer.encode(text[-32 * tokens :])
    return model.tokenizer.decode(ids[-tokens:])


def _chat(model: ServedModel, body: ChatRequest, request_id: str, trace: Mapping[str, str], *, stream: bool) -> Plan:
    offered = body.tools if body.tools and body.tool_choice != "none" else None
    text = render(model, body)
    family, begun, named = None, "", False
    guided: dict[str, str] = {}  # where the engine can
    if offered:
        family = FAMILIES[model.config.tool_call_parser or family_of(model.tokenizer.template(tools=True))]
        named = isinstance(body.tool_choice, NamedTool)
        if named or body.tool_choice == "required":
            if body.guide():
                raise ApiError(400, "A demanded call and a bound answer exclude each other.", param="tool_choice")
            name = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
            if name is None and len(offered) == 1:
                name = offered[0].function.name
            begun = demanded(family, name)
            functions = {tool.function.name: tool.function.parameters or {} for tool in offered}
            guided = call_guide(family, functions, name).inputs()
    if body.truncate_prompt_tokens:
        raise unsupported("truncate_prompt_tokens", "would cut a conversation anywhere; leave out messages instead")
    base = _base(model, body, text + begun, request_id, trace, stream=stream, logprobs=bool(body.logprobs))
    if guided:
        base = base._replace(optional=guided)
    return Plan(
        _answers(model, base, body, body.choices),
        body.choices,
        body.choices,
        family=family,
        functions=tuple(tool.function.name for tool in offered or ()),
        named=named,
        only_one=body.parallel_tool_calls is False or named,
        begun=begun,
        thinks=model.tokenizer.thinks,
        # The end alone is looked at: a copy of a prompt of megabytes would keep others waiting.
        thinking=text[-THOUGHT_WITHIN:].rstrip().endswith("<think>"),
    )


def render(model: ServedModel, body: ChatRequest) -> str:
    """The prompt of a conversation."""
    more: dict[str, Any] = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        more.setdefault("reasoning_effort", body.reasoning_effort)
    if body.documents:
        more["documents"] = body.documents
    if body.tools and body.tool_choice != "none":
        if "tools" not in model.tokenizer.template(tools=True):
            raise unsupported("tools", f"are unknown to the chat template of the model '{model.name}'")
        more["tools"] = [tool.model_dump(exclude_none=True) for tool in body.tools]
    last = body.messages[-1]
    more["add_generation_prompt"] = body.add_generation_prompt is not False and not body.continue_final_message
    text = model.tokenizer.render(body.messages, model.name, **more)
    if body.continue_final_message:
        content = last["content"].strip()
        if last["role"] != "assistant" or not content:
            message = "'continue_final_message' needs a last message of the assistant with a text to continue."
            raise ApiError(400, message, param="continue_final_message")
        at = text.rfind(content)
        if at < 0:
            message = "The chat template changes the last message, so that it cannot be continued."
            raise ApiError(400, message, param="continue_final_message")
        text = text[: at + len(content)]
    return text


def _base(
    model: ServedModel,
    body: GenerationRequest,
    text: str,
    request_id: str,
    trace: Mapping[str, str],
    *,
    stream: bool,
    logprobs: bool,
) -> GenerateRequest:
    chat = isinstance(body, ChatRequest)
    max_tokens, param = body.limit()
    return GenerateRequest(
        text=text,
        chat=chat,
        max_tokens=max_tokens,
        limit_param=param,
        sampling={},
        optional={},
        stop=tuple(body.stop or ()),
        stop_tokens=tuple(_single_token(model, i, "stop_token_ids") for i in body.stop_token_ids or ()),
        include_stop=bool(body.include_stop_str_in_output),
        ignore_end=bool(body.ignore_eos),
        logprobs=logprobs,
        stream=stream,
        default_max_tokens=model.config.default_max_tokens or DEFAULT_MAX_TOKENS[chat],
        id=request_id,
        trace=trace,
    )


def _answers(model: ServedModel, base: GenerateRequest, body: GenerationRequest, count: int) -> list[GenerateRequest]:
    """*count* requests that differ in their seeds."""
    more: dict[str, Any] = {}
    names: dict[str, str] = {}
    if base.logprobs:
        more["return_log_probs"] = True
        names["return_log_probs"] = "logprobs"
    if body.logit_bias:
        more["embedding_bias_words"] = [_biased(model, key) for key in body.logit_bias]
        more["embedding_bias_weights"] = list(body.logit_bias.values())
        names.update(dict.fromkeys(more, "logit_bias"))
    if guide := body.guide():
        more.update(guide.inputs())
        names.update(dict.fromkeys(guide.inputs(), guide.param))
    requests = []
    for choice in range(count):
        sampling, optional = body.sampling(choice)
        requests.append(
            base._replace(sampling={**sampling, **more}, optional={**base.optional, **optional}, names=names)
        )
    return requests


def _single_token(model: ServedModel, token: int, param: str) -> str:
    """The text that the engine takes for just this token."""
    return model.tokenizer.text_of([token], param)


def _biased(model: ServedModel, key: str) -> str:
    if not key.isdigit():
        raise ApiError(400, f"'logit_bias' must have ids of tokens as keys, not '{key}'.", param="logit_bias")
    return _single_token(model, int(key), "logit_bias")
