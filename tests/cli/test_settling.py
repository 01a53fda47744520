"""What a start leaves in memory is looked through before anybody waits for the event loop."""

import gc
from dataclasses import replace

import pytest

from chatpager.cli.serving import service_opener
from chatpager.config import Config, EngineConfig, StoreConfig
from chatpager.demo import model_path


@pytest.fixture
def collector():
    gc.disable()  # as a start does
    yield
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
