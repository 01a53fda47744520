"""What a start leaves in memory is looked through before anybody waits for the event loop."""

import gc
from dataclasses import replace
from itertools import pairwise

import pytest

from chatpager.cli.engines import settle_memory
from chatpager.cli.serving import service_opener
from chatpager.config import Config, EngineConfig, StoreConfig
from chatpager.demo import model_path


@pytest.fixture
def collector():
    usual = gc.get_threshold()
    gc.disable()  # as a start does
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()
    gc.enable()


async def test_the_collector_has_looked_through_it_all_when_the_service_opens(tmp_path, collector):
    engine = EngineConfig(model=str(model_path()), engine="fake", num_kv_blocks=512)
    config = replace(Config(), engine=engine, store=StoreConfig(data_dir=str(tmp_path)))
    service = await service_opener(config, model_path(), "tiny")()
    try:
        assert gc.isenabled() and gc.get_freeze_count() > 10_000
    finally:
        await service.hub.close()
        await service.store.close()


def test_the_collector_looks_at_few_at_once(collector):
    settle_memory()
    kept, made = [], [0]

    def looks(phase, info):
        if phase == "start" and info["generation"] > 0:
            made.append(len(kept))

    gc.callbacks.append(looks)
    try:
        for _ in range(400_000):
            kept.append([])
    finally:
        gc.callbacks.remove(looks)
    assert max(behind - before for before, behind in pairwise([*made, len(kept)])) < 150_000
