"""A tiny chat model with a tokenizer and a template, for everything above the engine.

Its tokenizer is byte-level, knows few merges, and splits the same text in more than one way: what a random model
answers seldom tokenises back to the ids it was made of.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
EOS = 2
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS_CHATML = (
    "{% if tools %}<|im_start|>system\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "<tools>\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools>\n"
    'Call as <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if not m.name %}{{ raise_exception('a result has the name of its tool') }}{% endif %}"
    "<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% elif not (tools and loop.first and m.role == 'system') %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first else '' }}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Shows tools, calls and results as Qwen's templates do."""


def thinking(template: str, *, opens: bool = False) -> str:
    """``template`` for a model that thinks first: of earlier answers only what follows the thoughts is shown.
    ``opens``: it begins the thoughts itself, as DeepSeek-R1's does."""
    for content in ("m.content", "m['content']"):
        shown = f"m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else {content}"
        template = template.replace("{{ " + content + " }}<|im_end|>", "{{ " + shown + " }}<|im_end|>")
        template = template.replace("{{ m.role }}\n{{ " + content + " }}", "{{ m.role }}\n{{ " + shown + " }}")
    return template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}") if opens else template


HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
HARMONY = (
    "<|start|>system<|message|>Channels: analysis, commentary, final.<|end|>"
    "{% if tools %}<|start|>developer<|message|>{% for t in tools %}type {{ t.function.name }} = (_: "
    "{{ t.function.parameters | tojson }}) => any;\n{% endfor %}<|end|>{% endif %}{% set last = namespace(name=none) %}"
    "{% for m in messages %}{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    "{% if m.content %}<|start|>assistant<|channel|>analysis<|message|>{{ m.content }}<|end|>{% endif %}"
    "<|start|>assistant to=functions.{{ f.name }}<|channel|>commentary json<|message|>"
    "{{ f.arguments | tojson }}<|call|>{% set last.name = f.name %}"
    "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% set last.name = none %}"
    "{% elif m.role == 'tool' %}{% if last.name is none %}{{ raise_exception('nothing was called') }}{% endif %}"
    "<|start|>functions.{{ last.name }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""Has what GPT-OSS's template insists on: a result must follow a call."""
MISTRAL_TOKENS = (
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[ARGS]",
)  # fmt: skip
MISTRAL = (
    "{% set turn = namespace(n=0) %}"
    "{% for m in messages if m.role == 'user' or m.role == 'assistant' and not m.tool_calls %}"
    "{% if (m.role == 'user') != (turn.n % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set turn.n = turn.n + 1 %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.first %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('an id has nine characters') }}{% endif %}"
    '{{ (c.function | tojson)[:-1] }}, "id": "{{ c.id }}"}{{ \', \' if not loop.last }}{% endfor %}]{{ eos_token }}'
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('an id has nine characters') }}{% endif %}"
    '[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}{{ raise_exception('another role') }}{% endif %}{% endfor %}"
)
"""Has what Mistral's templates insist on: roles that alternate but for calls and results, ids of nine characters."""
MISTRAL_APART = (
    MISTRAL[: MISTRAL.index("[TOOL_CALLS] [")]
    + "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"
    "{% endfor %}{{ eos_token }}" + MISTRAL[MISTRAL.index("{% elif m.role == 'assistant' %}") :]
)
"""The form of Mistral's later models."""
DEEPSEEK_TOKENS = (
    "<｜User｜>", "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
)  # fmt: skip
DEEPSEEK = (
    "{% for t in tools or [] %}### {{ t.function.name }}\n{{ t.function.parameters | tojson }}\n{% endfor %}"
    "{% set ns = namespace(result=false) %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '' if ns.result else '<｜tool▁outputs▁begin｜>' }}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>"
    "{% set ns.result = true %}"
    "{% if loop.last or messages[loop.index].role != 'tool' %}<｜tool▁outputs▁end｜>{% endif %}"
    "{% elif m.role == 'assistant' %}{{ '' if ns.result else '<｜Assistant｜>' }}{{ m.content }}"
    "{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}{{ '\n' if not loop.first }}"
    "{{ '<｜tool▁call▁begin｜>' + c.type + '<｜tool▁sep｜>' + c.function.name + '\n```json\n' + c.function.arguments + "
    "'\n```<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>{% endif %}{{ eos_token }}{% set ns.result = false %}"
    "{% else %}<｜User｜>{{ m.content }}{% set ns.result = false %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.result %}<｜Assistant｜>{% endif %}"
)
"""Has what DeepSeek's templates do: behind results nothing asks, and arguments must be text."""
DEEPSEEK_LATER = DEEPSEEK.replace("{{ '\n' if not loop.first }}", "").replace(
    "c.type + '<｜tool▁sep｜>' + c.function.name + '\n```json\n' + c.function.arguments + '\n```<｜tool▁call▁end｜>'",
    "c.function.name + '<｜tool▁sep｜>' + (c.function.arguments | tojson) + '<｜tool▁call▁end｜>'",
)
"""The form since V3.1; this one takes arguments as objects."""
TEXT = [
    "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs",
    "user assistant system the a of and to in is you that it he was for on are as with his they",
    "sessions keep their prefix in blocks, and every turn computes only what is new",
    "你好，世界。繁體中文和简体中文。 😀 👩‍👩‍👧 é ü ñ",
]


def save_tokenizer(
    folder: Path,
    template: str | None = CHATML,
    vocab: int = 400,
    special: Sequence[str] = (),
    added: Sequence[str] = (),
) -> Path:
    """``added``: tokens that are not special, as DeepSeek's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[*SPECIAL, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens(list(added))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>", "<|endoftext|>", *special],
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def save_model(folder: Path, vocab: int = 400, max_positions: int = 1024, seed: int = 3) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab,
        max_position_embeddings=max_positions,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=3,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.12)
    model.save_pretrained(folder)
    return folder
