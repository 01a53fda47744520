"""What holds of an engine on the checkable model in any state; ``Engine.audit`` checks what its own books can tell."""

from chatpager.engine.block import BlockState
from tests.engine.fakes import LateRunner, digests


def audit(engine):
    engine.audit()
    cached_content_is_what_the_name_says(engine)
    tables_hold_blocks_of_their_own_domain(engine)


def cached_content_is_what_the_name_says(engine):
    """So nothing is found before the step that writes it is over, or behind another prefix."""
    size, memory = engine.config.block_size, engine.runner.memory
    for block in engine.pool.index.values():
        if block.children:
            continue  # its descendants' check includes it
        chain = [block]
        while chain[-1].parent:
            chain.append(chain[-1].parent)
        chain.reverse()
        content = [slot for link in chain for slot in memory[link.id][: len(link.tokens)]]
        assert content == digests(token for link in chain for token in link.tokens), f"{block} holds something else"
        assert all(link.depth == i for i, link in enumerate(chain)), block
        assert all((len(link.tokens) == size) is not link.is_tail for link in chain), block


def tables_hold_blocks_of_their_own_domain(engine):
    """A proof contains the salt."""
    for seq in engine.scheduler.running:
        proof = seq.hasher.proof
        for i, block_id in enumerate(seq.block_table[: seq.committed // engine.config.block_size]):
            proof = seq.hasher.prove(proof, seq.block_tokens(i))
            block = engine.pool.blocks[block_id]
            assert block.state is BlockState.OWNED or block.proof == proof, f"{seq.request_id} has another's block"


def watch_writes(engine):
    """Each step of ``engine`` is checked before it is computed or launched: what it writes has no name, and no other
    holder but those who copy it first."""
    size = engine.config.block_size

    def checking(begin):
        def checked(plan):
            for row in plan.rows:
                for block_id in row.seq.block_table[row.start // size : (row.end - 1) // size + 1]:
                    block = engine.pool.blocks[block_id]
                    others = block.ref - 1 - engine.scheduler.copies.holds(block_id)
                    assert block.state is BlockState.OWNED and others == 0, f"{row.seq.request_id} writes {block}"
            return begin(plan)

        return checked

    engine.runner.run = checking(engine.runner.run)
    if isinstance(engine.runner, LateRunner):
        engine.runner.launch = checking(engine.runner.launch)
        allocate = engine.cache.allocate

        def allocated(count, by=""):
            engine.runner.note_touched(ids := allocate(count, by))
            return ids

        engine.cache.allocate = allocated
