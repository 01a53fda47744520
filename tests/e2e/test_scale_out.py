"""Two front ends, two replicas each, one PostgreSQL; under clients that talk their processes are killed and stopped in
random order."""

from contextlib import closing

import pytest

from tests import postgres
from tests.e2e.scale_out import Cluster
from tests.e2e.scale_out_faults import FAULTS
from tests.e2e.scale_out_rounds import rounds_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


async def test_nothing_seen_is_lost_and_no_index_has_two_owners(fork_server, tmp_path):
    with postgres.made() as server, closing(Cluster(fork_server, server, tmp_path)) as cluster:
        await rounds_of(cluster, FAULTS, tmp_path)
