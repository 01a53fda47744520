import pytest

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
