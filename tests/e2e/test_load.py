"""Sixty-four sessions talk at once: every answer equals a stateless recompute, and no memory is wasted."""

import asyncio
import json
import random
from dataclasses import dataclass, field

import pytest
import torch
import transformers
from websockets.asyncio.client import connect

from chatpager import LLM, SamplingParams
from chatpager.demo import model_path
from chatpager.store import Store
from tests.processes import serving

SESSIONS, TURNS, TOKENS, BLOCK, EOS = 64, 5, 20, 16, 3
QUESTIONS = ["What is my name?", "What is chatpager?", "Where do I live?", "What is a KV block?", "Thank you!"]
TIE = 1e-4
"""Two logits as near as this may change places between two ways of adding up float32."""


@dataclass
class Talk:
    id: str
    asked: list[str] = field(default_factory=list)
    ends: list[dict] = field(default_factory=list)


def letter(rng):
    """A long first message, different in every session from its first words on."""
    names, places, things = ["Ada", "Linus", "Grace", "Ken", "Mei"], ["Oslo", "Lima", "Kyoto"], ["tea", "chess", "rain"]
    lines = (f"{rng.choice(names)} lives in {rng.choice(places)} and likes {rng.choice(things)}." for _ in range(30))
    return f"Letter {rng.randrange(10**6)}. My name is {rng.choice(names)}. " + " ".join(lines)


async def talk(socket_url, session, number):
    rng = random.Random(number)
    session.asked = [letter(rng), *rng.sample(QUESTIONS, TURNS - 1)]
    async with connect(socket_url, compression=None) as socket:
        for question in session.asked:
            wanted = {"conversation": session.id, "input": question, "max_output_tokens": TOKENS, "temperature": 0}
            await socket.send(json.dumps({"type": "response.create", **wanted}))
            text = ""
            while True:
                event = json.loads(await asyncio.wait_for(socket.recv(), 120))
                assert event["type"] not in ("error", "response.failed"), event
                text += event.get("delta", "")
                if event["type"] in ("response.completed", "response.incomplete"):
                    break
            assert event["response"]["output"][0]["content"][0]["text"] == text
            session.ends.append(event["response"])


async def watch(server, samples):
    while True:
        samples.append(await asyncio.to_thread(server.get, "/health"))
        await asyncio.sleep(0.05)


async def everybody_talks(server):
    sessions = [Talk(server.post("/v1/conversations")["id"]) for _ in range(SESSIONS)]
    samples = []
    watching = asyncio.ensure_future(watch(server, samples))
    url = server.url.replace("http", "ws") + "/v1/responses"
    async with asyncio.TaskGroup() as group:
        for number, session in enumerate(sessions):
            group.create_task(talk(url, session, number))
    watching.cancel()
    return sessions, samples


@pytest.fixture(scope="module")
def evening(fork_server, tmp_path_factory):
    """The sessions with their ends, the samples of /health, the figures at the end, the ids of every answer."""
    home = tmp_path_factory.mktemp("load")
    with serving(fork_server, home) as server:
        sessions, samples = asyncio.run(everybody_talks(server))
        at_rest = server.get("/health")
        assert server.stop() == 0, server.process.err.text
    ids = asyncio.run(generated_ids(f"sqlite+aiosqlite:///{home}/data/chatpager/chatpager.db", sessions))
    return sessions, samples, at_rest, ids


async def generated_ids(url, sessions):
    """Of every answer. An answer that was completed ended with a token that is not stored with its text."""
    store = await Store.open(url, migrate=False)
    found = []
    for session in sessions:
        chain = await store.load_chain("default", (await store.session("default", session.id)).tip_hash)
        answers = [m for m in chain if m.role == "assistant"]
        found.append([[*m.token_ids, *([EOS] if m.status == "completed" else [])] for m in answers])
    await store.close()
    return found


@pytest.fixture(scope="module")
def tokenizer():
    loaded = transformers.AutoTokenizer.from_pretrained(model_path())
    assert loaded.eos_token_id == EOS
    return loaded


def whole(tokenizer, asked, answers):
    """The ids of a conversation, and where in them each answer begins."""
    ids, starts = [], []
    for question, answer in zip(asked, answers, strict=True):
        ids += tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        starts.append(len(ids))
        ids += answer + tokenizer.encode("\n" if answer[-1] == EOS else "<|im_end|>\n")
    return ids, starts


def test_every_turn_is_answered_and_computes_only_what_is_new(evening, tokenizer):
    sessions, _, _, generated = evening
    for session, answers in zip(sessions, generated, strict=True):
        _, starts = whole(tokenizer, session.asked, answers)
        cached = 0
        for end, start, answer in zip(session.ends, starts, answers, strict=True):
            assert end["error"] is None
            usage = end["usage"]
            assert (usage["input_tokens"], usage["output_tokens"]) == (start, len(answer))
            # A first turn finds what others' questions begin with too.
            found = usage["input_tokens_details"]["cached_tokens"]
            assert found == cached or (not cached and found < start)
            cached = start + len(answer) - 1
            assert end["output"][0]["content"][0]["text"] == tokenizer.decode(answer, skip_special_tokens=True)


def test_every_token_is_the_one_that_transformers_computes_from_nothing(evening, tokenizer):
    sessions, _, _, generated = evening
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    checked = 0
    for session, answers in zip(sessions, generated, strict=True):
        ids, starts = whole(tokenizer, session.asked, answers)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0]
        for start, answer in zip(starts, answers, strict=True):
            at = logits[start - 1 : start - 1 + len(answer)]
            behind = at.max(-1).values - at[torch.arange(len(answer)), answer]
            assert behind.max() < TIE, f"{session.id}: {answer} is behind the best by {behind}"
            checked += len(answer)
    assert checked > SESSIONS * TURNS * 5


def test_an_engine_without_a_cache_gives_the_same_ids(evening, tokenizer):
    sessions, _, _, generated = evening
    llm = LLM(str(model_path()), dtype="float32", num_kv_blocks=2048, enable_prefix_caching=False)
    some = list(zip(sessions, generated, strict=True))[::8]
    prompts = []
    for session, answers in some:
        ids, starts = whole(tokenizer, session.asked, answers)
        prompts.append(ids[: starts[-1]])
    alone = [llm.generate([p], SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)[0] for p in prompts]
    assert [o.outputs[0].token_ids for o in alone] == [answers[-1] for _, answers in some]
    assert all(o.usage.cached_tokens == 0 for o in alone)


def test_blocks_are_full_while_sessions_run_and_held_by_nobody_afterwards(evening):
    _, samples, at_rest, _ = evening
    busy = [s["kv"] for s in samples if s["requests"]["running"] >= SESSIONS / 2]
    assert len(busy) >= 5, "half of the sessions or more were seen running at once"
    assert all(kv["block_size"] == BLOCK for kv in busy)
    wastes = [(kv["allocated_slots"] - kv["used_slots"]) / kv["allocated_slots"] for kv in busy]
    assert [round(w, 4) for w in wastes] == [kv["waste"] for kv in busy]
    print(f"\nKV waste at {len(busy)} moments: {sum(wastes) / len(wastes):.2%}, at the most {max(wastes):.2%}")
    assert max(wastes) < 0.04
    kv = at_rest["kv"]
    assert at_rest["requests"] == {"running": 0, "waiting": 0}
    assert (kv["active"], kv["allocated_slots"], kv["free"] + kv["cached"]) == (0, 0, kv["blocks"])
    assert kv["cached"] > 0
