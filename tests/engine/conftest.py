import pytest

from chatpager.engine.disk_tier import DiskTier
from tests.engine.models import Reference, save


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of the architecture's tiny model, made once a worker."""
    made = {}

    def get(architecture):
        if architecture not in made:
            made[architecture] = save(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def reference(tiny_model):
    made = {}

    def get(architecture):
        if architecture not in made:
            made[architecture] = Reference(tiny_model(architecture))
        return made[architecture]

    return get


@pytest.fixture
def disk(tmp_path):
    """Opens the disk tier of a folder again and again, as servers do one after the other."""
    opened = []

    def open_disk(capacity=1 << 20):
        for tier in opened:
            tier.close()
        opened[:] = [DiskTier(tmp_path / "kv", capacity)]
        return opened[0]

    yield open_disk
    for tier in opened:
        tier.close()
