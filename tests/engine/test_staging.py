"""A device that copies as late as it may finds what each step wrote, and not what the next one did."""

import random
from collections import deque

import numpy as np
import pytest
import torch

from chatpager.engine.batch import BatchBuilder
from chatpager.engine.plan import Plan, Row
from chatpager.engine.sampler import draw_rules
from chatpager.engine.staging import Staging
from tests.engine.test_sampler import seq

CPU = torch.device("cpu")
ROWS = 6


class Late(Staging):
    """Does what it was asked for only when somebody waits for it: in that order, as a stream does."""

    def __init__(self, nbytes, device):
        self.stream, self.asked, self.done = deque(), 0, 0
        super().__init__(nbytes, device, is_apart=True)

    def then(self, work):
        self.stream.append(work)
        self.asked += 1

    def run(self, until):
        while self.done < until:
            self.stream.popleft()()
            self.done += 1

    def _copy(self, target, source):
        self.then(lambda: target.copy_(source))

    def _event(self):
        return Event(self)


class Event:
    def __init__(self, staging):
        self.staging, self.until = staging, 0

    def record(self):
        self.until = self.staging.asked

    def synchronize(self):
        self.staging.run(self.until)


def plans(rng, count):
    """Decodes and prompts, and steps of decodes alone."""
    for _ in range(count):
        rows = []
        for _ in range(rng.randint(1, ROWS)):
            length = rng.randint(2, 40)
            s = seq(prompt=[rng.randrange(1000) for _ in range(length)], temperature=rng.choice([0.0, 0.7]), top_p=0.9)
            s.block_table = [rng.randrange(1, 99) for _ in range(-(-length // 4))]
            new = rng.choice([1, 1, 1, rng.randint(1, 6)])
            s.committed = max(0, length - new)
            rows.append(Row(s, length - s.committed, [s], (3, 4) if rng.random() < 0.1 else None))
        yield Plan(rows)


def contents(batch, rules):
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    return [t.clone() for t in (*tensors, *rules)]


def builder(staging):
    return BatchBuilder(64, 8, 12, 4, CPU, padded_rows=ROWS, longest=40, staging=staging)


@pytest.mark.parametrize("seed", range(3))
def test_no_step_is_overwritten_by_those_that_are_written_while_it_waits(seed):
    rng, plain, late, seen = random.Random(seed), builder(Staging), builder(Late), []

    def build(of, plan):
        if all(row.count == 1 and row.copy is None for row in plan.rows):
            seqs = [row.seq for row in plan.rows]
            rules = draw_rules(seqs, [row.end for row in plan.rows], 1000) if len(seqs) % 2 else None
            batch = of.build_padded(plan, {}, ROWS, rules)
            return batch, of.rules() if rules else [], len(seqs)
        return of.build(plan), [], len(plan.rows)

    for step, plan in enumerate(plans(rng, 40)):
        batch, rules, count = build(plain, plan)
        expected = contents(batch, [part[:, :count] for part in rules])
        batch, rules, count = build(late, plan)

        def computes(batch=batch, rules=rules, count=count, expected=expected, step=step):
            found = contents(batch, [part[:, :count] for part in rules])
            for wanted, given in zip(expected, found, strict=True):
                if wanted.shape == (ROWS, 12):  # tables of a graph: what is behind a context is anybody's
                    used = (batch.context_lens + 3) // 4
                    mask = torch.arange(12) < used.unsqueeze(1)
                    wanted, given = wanted[mask], given[mask]
                assert torch.equal(wanted, given), step
            seen.append(step)

        staging = late._staging
        staging.then(computes)
        if rng.random() < 0.3:
            staging.run(rng.randint(staging.done, staging.asked))
    assert len(seen) >= 38 - 2, "it waits for the step before the last one, and for no later one"
    staging.run(staging.asked)
    assert seen == list(range(40))


def test_a_step_waits_for_none_but_the_one_before_the_last():
    staging = Late(256, CPU)
    for step in range(6):
        staging.begin()
        place = staging.take(3, np.int64)
        staging.array(place)[:] = step
        staging.send(fixed=False)
        assert staging.done == max(0, step - 1)
        assert staging.tensor(place).tolist() == [max(0, step - 2)] * 3


def test_a_step_is_one_copy_and_another_where_a_graph_has_its_tables():
    of = builder(Late)
    (plan,) = plans(random.Random(1), 1)
    decodes = Plan([Row(s := seq(prompt=[1, 2, 3]), 1, [s])])
    decodes.rows[0].seq.committed, decodes.rows[0].seq.block_table = 2, [5]
    of.build(plan)
    assert of._staging.asked == 1
    of.build_padded(decodes, {}, 4, draw_rules([s], [3], 1000))
    assert of._staging.asked == 3


def test_what_is_fixed_stays_where_it_is_and_more_than_there_is_room_for_is_a_mistake():
    staging = Staging(256, CPU)
    fixed = staging.fix(2, np.int32)
    staging.array(fixed)[:] = 7, 8
    for _ in range(3):
        staging.begin()
        place = staging.take(16, np.int64)
        staging.array(place)[:] = -1
        staging.send(fixed=True)
        assert staging.tensor(fixed).tolist() == [7, 8] and place.offset % 64 == 0
    with pytest.raises(AssertionError):
        staging.take(16, np.int64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_a_busy_stream_gets_what_each_step_wrote():
    device = torch.device("cuda")
    staging, numbers, read = Staging(1 << 16, device), torch.rand(4096, 4096, device=device), []
    assert all(host.is_pinned() for host in staging._hosts)
    for step in range(50):
        numbers @ numbers  # the copy waits behind it
        staging.begin()
        place = staging.take(1000, np.int64)
        staging.array(place)[:] = step
        staging.send(fixed=False)
        read.append(staging.tensor(place).clone())
    assert [one.unique().tolist() for one in read] == [[step] for step in range(50)]
