import asyncio
import threading

import msgspec
import pytest

from chatpager import failpoints
from chatpager.engine.sequence import SamplingParams
from chatpager.errors import (
    ContextLengthExceeded,
    ConversationNotFound,
    EngineStopped,
    ModelLoadError,
    Overloaded,
    PreviousResponseNotFound,
    ResponseNotFound,
    SessionBusy,
    StoreError,
)
from chatpager.sessions.hub import SessionHub
from chatpager.sessions.stream import Delta, Ended, Prefilled, Started
from chatpager.store import Store
from tests.chat_models import EOS
from tests.sessions.conftest import TENANT, assistant, user


def unwritable(text, entry):
    """Only from the second token on, which comes with another turn's in one step."""
    return text, msgspec.structs.replace(entry, token_ids=[-1]) if entry and entry.first_index else entry


class TestATurn:
    async def test_is_stored_streamed_and_ended(self, rig):
        async with rig(lambda prompt: "hello there") as r:
            session = await r.session()
            turn = await r.hub.submit(r.request("hi", session=session))
            assert await r.texts(session) == [("user", "hi", "completed")], "acknowledged means stored"
            events = [e async for e in turn.stream.follow()]
            assert isinstance(events[0], Started)
            assert "".join(e.text for e in events if isinstance(e, Delta)) == "hello there"
            assert isinstance(events[-1], Ended)
            assert events[-1].text == "hello there"
            assert await r.texts(session) == [("user", "hi", "completed"), ("assistant", "hello there", "completed")]
            assert r.hub.turns == {}
            assert [i for i, _ in r.ended] == [turn.id]
            stored = await r.hub.store.turn(TENANT, turn.id)
            assert stored.status == "completed"
            assert stored.usage["input_tokens"] == len(turn.prompt)
            assert stored.receipt["computed_tokens"] == len(turn.prompt)
            assert stored.timings["ttft_ms"] > 0

    async def test_the_second_computes_only_what_is_new(self, rig):
        async with rig(lambda prompt: "an answer of some length") as r:
            session = await r.session()
            for _ in range(4):
                turn, ended = await r.ask("and a question", session=session)
            previous = len(turn.previous)
            assert ended.receipt.device_tokens == previous // 4 * 4
            assert ended.receipt.miss_reason is None
            assert ended.receipt.attainable_tokens == ended.receipt.device_tokens

    async def test_can_do_without_a_session(self, rig):
        async with rig(lambda prompt: str(prompt.count("user"))) as r:
            first, ended = await r.ask("a")
            assert ended.text == "1"
            _, left = await r.ask("b", previous=first.id)
            _, right = await r.ask("c", previous=first.id)
            assert (left.text, right.text) == ("2", "2"), "two continuations of one answer are a fork"
            assert left.receipt.device_tokens > 0

    async def test_instructions_stand_at_the_head_and_are_not_kept(self, rig):
        async with rig(lambda prompt: "yes" if prompt.startswith("system\nBe brief.") else "no") as r:
            session = await r.session()
            assert (await r.ask("a", session=session, instructions="Be brief."))[1].text == "yes"
            _, ended = await r.ask("b", session=session)
            assert ended.text == "no"
            assert ended.receipt.miss_reason == "diverged"

    async def test_a_long_prompt_tells_how_far_it_is(self, rig):
        async with rig(step=16) as r:
            turn = await r.hub.submit(r.request("long " * 30))
            events = [e async for e in turn.stream.follow()]
            progress = [e for e in events if isinstance(e, Prefilled)]
            assert [p.done for p in progress] == list(range(16, len(turn.prompt), 16))
            assert all(p.total == len(turn.prompt) for p in progress)

    async def test_ends_at_its_limit(self, rig):
        async with rig(lambda prompt: "one two three four five") as r:
            _, ended = await r.ask("a", max_tokens=2)
            assert (ended.status, ended.finish, ended.output_tokens) == ("incomplete", "length", 2)

    async def test_ends_at_a_stop_string(self, rig):
        async with rig(lambda prompt: "one two three") as r:
            session = await r.session()
            params = SamplingParams(temperature=0.0, max_tokens=40, stop="two")
            _, ended = await r.ask("a", session=session, params=params)
            assert (ended.status, ended.text) == ("completed", "one ")
            assert (await r.texts(session))[-1] == ("assistant", "one ", "completed")
            _, ended = await r.ask("b", session=session)
            assert ended.status == "completed"

    async def test_an_answer_of_nothing_is_an_answer(self, rig):
        async with rig(lambda prompt: "") as r:
            session = await r.session()
            _, ended = await r.ask("a", session=session)
            assert (ended.status, ended.text) == ("completed", "")
            assert (await r.texts(session))[-1] == ("assistant", "", "completed")
            assert (await r.ask("b", session=session))[1].status == "completed"

    async def test_that_is_not_stored_leaves_nothing(self, rig):
        async with rig() as r:
            turn, ended = await r.ask("a", stored=False)
            assert ended.text == "ok"
            with pytest.raises(ResponseNotFound):
                await r.hub.store.turn(TENANT, turn.id)
            with pytest.raises(PreviousResponseNotFound):
                await r.ask("b", previous=turn.id)

    async def test_the_wires_object_is_stored_at_its_end(self, rig):
        async with rig() as r:
            turn, _ = await r.ask("a", body=lambda turn, ended: {"text": ended.text, "id": turn.id})
            assert await r.hub.store.response(TENANT, turn.id) == {"text": "ok", "id": turn.id}


class TestTokenExact:
    async def test_fifty_turns_reuse_every_full_block_though_text_would_tokenise_otherwise(self, rig, tokenizer):
        """The answers are made of ids that their own text does not tokenise to."""
        drifted = 0

        def ids(prompt_ids):
            letters = tokenizer.encode_plain("t") + tokenizer.encode_plain("h") + tokenizer.encode_plain("e")
            return letters * (2 + len(prompt_ids) % 3)

        async with rig(ids=ids, blocks=4000, length=8000, step=512) as r:
            session = await r.session()
            for i in range(50):
                turn, ended = await r.ask(f"turn {i}", session=session)
                drifted += tokenizer.encode_plain(ended.text) != turn.answer_ids()
                if i:
                    assert ended.receipt.device_tokens == len(turn.previous) // 4 * 4
                    assert ended.receipt.miss_reason is None
                    assert turn.prompt[: len(turn.previous)] == list(turn.previous)
        assert drifted == 50

    async def test_text_that_comes_back_from_a_stateless_client_gets_its_ids(self, rig, tokenizer):
        letters = [tokenizer.encode_plain(c)[0] for c in "the"]
        async with rig(ids=lambda prompt: letters * 4) as r:
            conversation = [user("hello")]
            for i in range(5):
                turn, ended = await r.ask(messages=list(conversation), whole=True, kind="chat")
                if i:
                    assert ended.receipt.device_tokens == len(turn.previous) // 4 * 4
                conversation += [assistant(ended.text), user(f"more {i}")]

    async def test_a_stateless_conversation_nobody_stored_is_taken_as_it_is(self, rig):
        async with rig(lambda prompt: "yes" if "made up" in prompt else "no") as r:
            messages = [user("a"), assistant("made up"), user("b")]
            assert (await r.ask(messages=messages, whole=True, kind="chat"))[1].text == "yes"

    async def test_asking_the_same_again_answers_the_stored_beginning(self, rig):
        async with rig(lambda prompt: "same") as r:
            messages = [user("a")]
            first, _ = await r.ask(messages=messages, whole=True, kind="chat")
            second, _ = await r.ask(messages=messages, whole=True, kind="chat")
            assert list(first.prompt) == list(second.prompt)

    async def test_a_stop_string_inside_a_token_keeps_the_ids_that_are_left(self, rig, tokenizer):
        word = tokenizer.encode_plain("the")
        assert len(word) == 1, "the test needs a token of several letters"
        async with rig(ids=lambda prompt: tokenizer.encode_plain("a ") + word * 3) as r:
            session = await r.session()
            params = SamplingParams(temperature=0.0, max_tokens=40, stop="he")
            _, ended = await r.ask("x", session=session, params=params)
            assert ended.text == "a t"
            stored = await r.hub.store.session(TENANT, session)
            answer = (await r.hub.store.load_chain(TENANT, stored.tip_hash))[-1]
            assert tokenizer.decode(answer.token_ids) == "a t"

    async def test_a_long_stop_string_costs_a_few_decodings_of_the_answer(self, rig, tokenizer, monkeypatch):
        letters = [tokenizer.encode_plain(c)[0] for c in "abcdefghijklmnopqrstuvwxyz"]
        decode, long = tokenizer.decode, []

        def counted(ids, **more):
            long.append(len(ids)) if len(ids) > 100 else None
            return decode(ids, **more)

        async with rig(ids=lambda prompt: letters[:1] * 200 + letters + letters, length=2000) as r:
            session = await r.session()
            params = SamplingParams(temperature=0.0, max_tokens=400, stop=decode(letters)[3:])
            monkeypatch.setattr(tokenizer, "decode", counted)
            _, ended = await r.ask("x", session=session, params=params)
            assert ended.text == "a" * 200 + "abc"
            stored = await r.hub.store.session(TENANT, session)
            answer = (await r.hub.store.load_chain(TENANT, stored.tip_hash))[-1]
            assert list(answer.token_ids) == letters[:1] * 200 + letters[:3]
            assert len(long) <= 4

    async def test_answers_of_another_vocabulary_are_rendered_from_their_text(self, rig):
        async with rig(lambda prompt: "seen" if "old answer" in prompt else "lost") as r:
            session = await r.session()
            foreign = assistant("old answer")
            foreign = type(foreign)(
                role="assistant", content=foreign.content, vocab="another", token_ids=[399, 399, 399]
            )
            await r.hub.store.append_messages(TENANT, session, [user("q"), foreign], now=2)
            assert (await r.ask("b", session=session))[1].text == "seen"


class TestOneTurnAtATime:
    async def test_turns_of_one_session_wait_in_order(self, rig):
        async with rig(lambda prompt: str(prompt.count("user\n"))) as r:
            session = await r.session()
            turns = await asyncio.gather(*(r.ask(f"m{i}", session=session) for i in range(5)))
            assert [ended.text for _, ended in turns] == ["1", "2", "3", "4", "5"]
            texts = [text for role, text, _ in await r.texts(session) if role == "user"]
            assert texts == ["m0", "m1", "m2", "m3", "m4"]

    async def test_turns_of_different_sessions_run_together(self, rig):
        async with rig() as r:
            gate = r.hold()
            sessions = [await r.session(f"conv_{i}") for i in range(3)]
            turns = [await r.hub.submit(r.request("a", session=s)) for s in sessions]
            assert len(r.hub.turns) == 3
            gate.set()
            assert [(await t.stream.end()).text for t in turns] == ["ok"] * 3

    async def test_going_on_from_an_answer_that_still_runs_is_refused(self, rig):
        async with rig() as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            with pytest.raises(SessionBusy):
                await r.hub.submit(r.request("b", previous=turn.id))
            gate.set()
            await turn.stream.end()

    async def test_a_waiter_that_gives_up_lets_the_next_one_in(self, rig):
        async with rig() as r:
            gate = r.hold()
            session = await r.session()
            turn = await r.hub.submit(r.request("a", session=session))
            waiter = asyncio.ensure_future(r.hub.submit(r.request("b", session=session)))
            await asyncio.sleep(0.01)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            gate.set()
            await turn.stream.end()
            await r.ask("c", session=session)
            assert [t for role, t, _ in await r.texts(session) if role == "user"] == ["a", "c"]


class TestRefusals:
    async def test_what_is_refused_changes_nothing(self, rig):
        async with rig(length=40) as r:
            session = await r.session()
            for request, error in [
                (r.request("a", session="conv_none"), ConversationNotFound),
                (r.request("a", session=session, tenant="other"), ConversationNotFound),
                (r.request("a", previous="resp_none"), PreviousResponseNotFound),
                (r.request("word " * 60, session=session), ContextLengthExceeded),
                (r.request("word " * 8, params=SamplingParams(min_tokens=39, max_tokens=40)), ContextLengthExceeded),
            ]:
                with pytest.raises(error):
                    await r.hub.submit(request)
            assert await r.texts(session) == []
            assert r.hub.turns == {}
            assert (await r.ask("ok?", session=session))[1].text == "ok"

    async def test_too_many_turns_are_refused_early(self, rig):
        async with rig(max_turns=2) as r:
            gate = r.hold()
            session = await r.session()
            first = await r.hub.submit(r.request("a", session=session))
            waiting = asyncio.ensure_future(r.hub.submit(r.request("b", session=session)))
            await asyncio.sleep(0.01)
            with pytest.raises(Overloaded) as caught:
                await r.hub.submit(r.request("c"))
            assert caught.value.retry_after > 0
            gate.set()
            await first.stream.end()
            await (await waiting).stream.end()
            await r.ask("d")

    async def test_turns_that_come_at_once_are_counted_before_they_have_begun(self, rig):
        async with rig(max_turns=4) as r:
            gate = r.hold()
            results = await asyncio.gather(*(r.hub.submit(r.request("a")) for _ in range(40)), return_exceptions=True)
            refused = [x for x in results if isinstance(x, Overloaded)]
            assert len(refused) == 36
            gate.set()
            for turn in results:
                if turn not in refused:
                    await turn.stream.end()
            await asyncio.gather(*(r.ask("b") for _ in range(4)))

    async def test_what_is_refused_takes_no_place(self, rig):
        async with rig(max_turns=1) as r:
            for _ in range(3):
                with pytest.raises(ConversationNotFound):
                    await r.hub.submit(r.request("a", session="conv_none"))
            assert (await r.ask("b"))[1].status == "completed"

    async def test_the_engines_refusal_becomes_a_failed_turn(self, rig):
        async with rig(blocks=12, length=1000) as r:
            session = await r.session()
            _, ended = await r.ask("word " * 40, session=session)
            assert (ended.status, ended.error_code) == ("failed", "kv_capacity_exceeded")
            assert ended.receipt is None
            assert (await r.texts(session))[-1][0] == "user"


class TestCancel:
    async def test_a_queued_a_prefilling_and_a_streaming_turn(self, rig):
        async with rig(lambda prompt: "word " * 100, step=16, length=2000) as r:
            gate = r.hold()
            queued = await r.hub.submit(r.request("a", max_tokens=400))
            r.hub.cancel(TENANT, queued.id)
            gate.set()
            assert (await queued.stream.end()).status == "cancelled"
            for stage in (Prefilled, Delta):
                turn = await r.hub.submit(r.request("long " * 60, max_tokens=400))
                async for event in turn.stream.follow():
                    if isinstance(event, stage):
                        r.hub.cancel(TENANT, turn.id)
                        break
                ended = await turn.stream.end()
                assert ended.status == "cancelled"
            stored = await r.hub.store.turn(TENANT, turn.id)
            message = (await r.hub.store.load_chain(TENANT, stored.tip_hash))[-1]
            assert message.status == "cancelled"
            assert message.content[0]["text"] == ended.text != ""
            assert (await r.hub.engine.stats()).memory.active == 0

    async def test_one_that_ended_or_is_anothers_is_not_found(self, rig):
        async with rig() as r:
            turn, _ = await r.ask("a")
            with pytest.raises(ResponseNotFound):
                r.hub.cancel(TENANT, turn.id)
            gate = r.hold()
            turn = await r.hub.submit(r.request("b"))
            with pytest.raises(ResponseNotFound):
                r.hub.cancel("other", turn.id)
            assert r.hub.live("other", turn.id) is None
            assert r.hub.live(TENANT, turn.id) is turn
            gate.set()
            await turn.stream.end()


class TestFaults:
    async def test_a_turn_whose_step_fails_ends_alone(self, rig):
        async with rig() as r:
            r.runner.raise_for.add("resp_bad")
            bad = r.request("a")
            r.runner.raise_for = {bad.id}
            good, bad = await asyncio.gather(r.ask("b"), r.hub.submit(bad))
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "engine_step_failed")
            assert good[1].status == "completed"

    async def test_an_engine_that_dies_fails_what_runs_and_refuses_what_comes(self, rig):
        async with rig() as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            r.engine.step = None  # the next step raises outside the engine's own care
            gate.set()
            ended = await turn.stream.end()
            assert ended.status in ("failed", "completed")
            while r.hub.engine.alive:
                r.hub.engine.send(("not a command",))
                await asyncio.sleep(0.001)
            with pytest.raises(EngineStopped):
                await r.hub.submit(r.request("b"))
            with pytest.raises(EngineStopped):
                await r.hub.engine.stats()

    async def test_a_turn_that_cannot_be_handed_over_fails(self, rig, monkeypatch):
        async with rig() as r:

            def stopped(command):
                raise EngineStopped("gone")

            monkeypatch.setattr(r.hub.engine, "send", stopped)
            _, ended = await r.ask("a")
            assert (ended.status, ended.error_code) == ("failed", "engine_stopped")

    async def test_tokens_that_cannot_be_journalled_are_not_shown(self, rig, monkeypatch):
        async with rig(lambda prompt: "secret words") as r:

            async def broken(entries):
                if entries:
                    raise StoreError("the disk is full")

            monkeypatch.setattr(r.hub.store, "journal", broken)
            turn = await r.hub.submit(r.request("a"))
            events = [e async for e in turn.stream.follow()]
            assert not [e for e in events if isinstance(e, Delta)]
            assert (events[-1].status, events[-1].error_code) == ("failed", "storage_unavailable")
            monkeypatch.undo()
            assert (await r.ask("b"))[1].status == "completed"

    async def test_an_end_that_cannot_be_stored_is_told_as_a_failure(self, rig, monkeypatch):
        async with rig() as r:

            async def broken(done):
                raise StoreError("the database is away")

            monkeypatch.setattr(r.hub.store, "finish_turn", broken)
            _, ended = await r.ask("a")
            assert (ended.status, ended.error_code) == ("failed", "storage_unavailable")
            assert r.hub.turns == {}

    async def test_a_mistake_in_one_turn_fails_that_turn_alone(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            bad, good = [await r.hub.submit(r.request("a")) for _ in range(2)]
            monkeypatch.setattr(bad, "take", None)
            gate.set()
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            ended = await good.stream.end()
            assert (ended.status, ended.text) == ("completed", "a b c d")
            assert (await r.hub.engine.stats()).memory.active == 0

    async def test_a_mistake_in_showing_one_turn_fails_that_turn_alone(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            bad, good = [await r.hub.submit(r.request("a")) for _ in range(2)]
            append = bad.stream.append
            monkeypatch.setattr(bad.stream, "append", lambda e: append(e) if isinstance(e, Ended) else 1 / 0)
            gate.set()
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            ended = await good.stream.end()
            assert (ended.status, ended.text) == ("completed", "a b c d")

    async def test_an_entry_that_cannot_be_written_down_fails_its_turn_alone(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            bad, good = [await r.hub.submit(r.request("a")) for _ in range(2)]
            take = bad.take
            monkeypatch.setattr(bad, "take", lambda *step: unwritable(*take(*step)))
            gate.set()
            ended = await bad.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            ended = await good.stream.end()
            assert (ended.status, ended.text) == ("completed", "a b c d")

    async def test_a_mistake_in_the_delivery_fails_the_turns_and_not_the_server(self, rig, monkeypatch):
        async with rig(lambda prompt: "a b c d") as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            with monkeypatch.context() as patch:
                patch.setattr(r.hub._delivery, "_deliver", None)
                gate.set()
                ended = await turn.stream.end()
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            assert (await r.ask("b"))[1].status == "completed"

    @pytest.mark.parametrize("params", [{}, {"stop": "c"}], ids=["whole", "stopped"])
    async def test_a_mistake_at_the_end_fails_the_turn_and_frees_its_session(self, rig, params, capsys):
        def body(turn, ended):
            raise ValueError(f"a wire's mistake about {turn.text}")

        async with rig(lambda prompt: "a secret") as r:
            session = await r.session()
            params = SamplingParams(temperature=0.0, max_tokens=40, **params)
            turn, ended = await r.ask("private", session=session, body=body, params=params)
            assert (ended.status, ended.error_code) == ("failed", "internal_error")
            assert (await r.hub.store.turn(TENANT, turn.id)).status == "failed"
            assert await r.hub.store.response(TENANT, turn.id) is None
            assert (await r.texts(session))[-1] == ("assistant", ended.text, "failed")
            assert [i for i, _ in r.ended] == [turn.id]
            assert r.hub.turns == {}
            assert (await r.ask("more", session=session))[1].status == "completed"
        logged = capsys.readouterr().out
        assert "ValueError" in logged
        assert "body:" in logged, "it says where"
        assert "secret" not in logged
        assert "private" not in logged

    async def test_a_mistake_of_who_is_told_of_ends_harms_nobody(self, rig, capsys):
        def on_end(turn, ended):
            raise ValueError("a figure is missing")

        async with rig(on_end=on_end) as r:
            session = await r.session()
            for text in "ab":
                assert (await r.ask(text, session=session))[1].status == "completed"
            assert r.hub.turns == {}
        assert "on_end:" in capsys.readouterr().out

    async def test_a_title_that_cannot_be_stored_is_no_reason_to_fail(self, rig, monkeypatch):
        async with rig() as r:
            session = await r.session()

            async def broken(*args, **more):
                raise StoreError("locked")

            monkeypatch.setattr(r.hub.store, "update_session", broken)
            assert (await r.ask("a", session=session))[1].status == "completed"


class TestOpeningAndClosing:
    async def test_an_answer_that_lacked_only_its_end_goes_on_token_exact(self, rig, monkeypatch):
        async with rig() as r:
            session = await r.session()
            arrived = asyncio.Event()
            monkeypatch.setattr(r.hub._delivery, "end", lambda turn, **how: arrived.set())
            turn = await r.hub.submit(r.request("a", session=session))
            await arrived.wait()
        async with rig() as r:
            assert (await r.texts(session))[-1] == ("assistant", "ok", "interrupted")
            again, _ = await r.ask("b", session=session)
            assert list(again.prompt)[: len(turn.prompt) + len(turn.token_ids)] == [*turn.prompt, *turn.token_ids]
            assert list(again.prompt).count(EOS) == list(turn.prompt).count(EOS) + 2

    async def test_what_a_crash_left_running_is_interrupted(self, rig, monkeypatch):
        async with rig(lambda prompt: "one two three four") as r:
            session = await r.session()
            monkeypatch.setattr(r.hub._delivery, "end", lambda turn, **how: None)
            turn = await r.hub.submit(r.request("a", session=session))
            seen = ""
            async for event in turn.stream.follow():
                seen += event.text if isinstance(event, Delta) else ""
                if len(seen) > 5:
                    break
        async with rig() as r:
            role, text, status = (await r.texts(session))[-1]
            assert (role, status) == ("assistant", "interrupted")
            assert text.startswith(seen)
            assert (await r.ask("go on", session=session))[1].status == "completed"

    async def test_closing_gives_running_turns_time(self, rig):
        async with rig(lambda prompt: "slow but sure") as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a"))
            draining = asyncio.ensure_future(r.hub.drain(10))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await r.hub.submit(r.request("b"))
            gate.set()
            await draining
            assert turn.stream.ended.text == "slow but sure"

    async def test_what_does_not_end_in_time_is_interrupted(self, rig):
        async with rig(lambda prompt: "word " * 200, length=3000) as r:
            session = await r.session()
            turn = await r.hub.submit(r.request("a", session=session, max_tokens=900))
            async for event in turn.stream.follow():
                if isinstance(event, Delta):
                    break
            await r.hub.drain(0)
            await r.hub.close()
            assert turn.stream.ended.status in ("interrupted", "completed")
            assert (await r.texts(session))[-1][2] == turn.stream.ended.status

    async def test_what_begins_as_the_server_closes_ends_with_it(self, rig, monkeypatch):
        async with rig() as r:
            begin_turn, inside, gate = r.hub.store.begin_turn, asyncio.Event(), asyncio.Event()

            async def slow(new):
                begun = await begin_turn(new)
                inside.set()
                await gate.wait()
                return begun

            monkeypatch.setattr(r.hub.store, "begin_turn", slow)
            beginning = asyncio.ensure_future(r.hub.submit(r.request("a")))
            await inside.wait()
            await r.hub.drain(0)
            closing = asyncio.ensure_future(r.hub.close())
            await asyncio.sleep(0)
            gate.set()
            await closing
            turn = await beginning
            assert turn.stream.ended is not None
            assert (await r.hub.store.turn(TENANT, turn.id)).status == turn.stream.ended.status

    async def test_draining_waits_for_what_is_beginning(self, rig):
        async with rig() as r:
            beginning = asyncio.ensure_future(r.hub.submit(r.request("a")))
            await asyncio.sleep(0)
            assert r.hub.turns == {}
            await r.hub.drain(10)
            with pytest.raises(Overloaded):
                await beginning

    @pytest.mark.parametrize("fails", ["claim", "recover", "model", "nothing was opened"])
    async def test_a_hub_that_did_not_open_leaves_no_thread_and_can_be_closed(
        self, tokenizer, database, monkeypatch, fails
    ):
        def build():
            raise ModelLoadError("/nowhere", "no such folder")

        async def refuse(*args):
            raise StoreError("the database is away")

        store = await Store.open(database, migrate=True)
        before = set(threading.enumerate())
        hub = SessionHub(store, tokenizer, build)
        if fails in ("claim", "recover"):
            monkeypatch.setattr(store, fails, refuse)
        if not fails.startswith("nothing"):
            with pytest.raises(ModelLoadError if fails == "model" else StoreError, match=r"no such folder|away"):
                await hub.open()
        assert not [t for t in threading.enumerate() if t.name == "chatpager-engine"]
        for _ in range(2):
            await hub.close()
        await store.close()
        assert not [t for t in set(threading.enumerate()) - before if "engine" in t.name or "tokenizer" in t.name]

    async def test_a_start_that_is_given_up_while_the_model_loads_leaves_no_thread(self, tokenizer, database):
        loading, gate = threading.Event(), threading.Event()

        def build():
            loading.set()
            gate.wait()
            raise ModelLoadError("/nowhere", "too late")

        store = await Store.open(database, migrate=True)
        hub = SessionHub(store, tokenizer, build)
        opening = asyncio.ensure_future(hub.open())
        await asyncio.to_thread(loading.wait)
        opening.cancel()
        asyncio.get_running_loop().call_later(0.01, gate.set)
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not [t for t in threading.enumerate() if t.name == "chatpager-engine"]
        await hub.close()
        await store.close()

    async def test_the_terminal_event_has_a_place_to_break_at(self, rig):
        failpoints.arm("sessions.before_terminal_event=raise", {"CHATPAGER_TEST_MODE": "1"})
        try:
            async with rig() as r:
                turn = await r.hub.submit(r.request("a"))
                stored = asyncio.Event()
                finish_turn = r.hub.store.finish_turn

                async def noted(done):
                    finished = await finish_turn(done)
                    stored.set()
                    return finished

                r.hub.store.finish_turn = noted
                await stored.wait()
                assert (await turn.stream.end()).status == "completed", "what is stored is told all the same"
                assert failpoints._armed == {}
        finally:
            failpoints.arm("")


class TestLiveTurns:
    async def test_a_sessions_running_turn_can_be_found(self, rig):
        async with rig() as r:
            gate = r.hold()
            session = await r.session()
            turn = await r.hub.submit(r.request("a", session=session))
            assert r.hub.live_of_session(TENANT, session) is turn
            assert r.hub.live_of_session("other", session) is None
            gate.set()
            await turn.stream.end()
            assert r.hub.live_of_session(TENANT, session) is None

    async def test_draining_an_idle_server_takes_no_time(self, rig):
        async with rig() as r:
            await r.hub.drain(100)


class TestTitles:
    async def test_a_session_is_called_by_its_first_words(self, rig):
        async with rig() as r:
            session = await r.session()
            await r.ask("  What   is a\nsession? " + "x" * 100, session=session)
            title = (await r.hub.store.session(TENANT, session)).title
            assert title.startswith("What is a session?")
            assert len(title) == 80
            await r.ask("another question", session=session)
            assert (await r.hub.store.session(TENANT, session)).title == title

    async def test_a_title_that_was_given_stays(self, rig):
        async with rig() as r:
            await r.hub.store.create_session(TENANT, id="conv_t", title="Mine", now=1)
            await r.ask("hello", session="conv_t")
            assert (await r.hub.store.session(TENANT, "conv_t")).title == "Mine"


class TestTenants:
    async def test_do_not_wait_for_each_other_at_a_session_of_one_name(self, rig):
        async with rig() as r:
            gate = r.hold()
            turn = await r.hub.submit(r.request("a", session=await r.session()))
            async with asyncio.timeout(5):
                with pytest.raises(ConversationNotFound):
                    await r.hub.submit(r.request("b", session="conv_1", tenant="other"))
            gate.set()
            await turn.stream.end()

    async def test_blocks_are_not_shared_between_tenants(self, rig):
        async with rig() as r:
            await r.ask("the very same words " * 5)
            _, same = await r.ask("the very same words " * 5)
            _, other = await r.ask("the very same words " * 5, tenant="other")
            assert same.receipt.device_tokens > 0
            assert other.receipt.device_tokens == 0
