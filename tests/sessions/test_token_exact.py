from chatpager.engine.sequence import SamplingParams
from tests.sessions.conftest import TENANT, assistant, user


class TestTokenExact:
    async def test_fifty_turns_reuse_every_token_though_text_would_tokenise_otherwise(self, rig, tokenizer):
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
                    assert ended.receipt.device_tokens == len(turn.previous)
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
                    assert ended.receipt.device_tokens == len(turn.previous)
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
