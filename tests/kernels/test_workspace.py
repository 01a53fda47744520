import torch

from chatpager.kernels import Workspace

CPU = torch.device("cpu")


def test_the_same_name_gives_the_same_memory_while_it_fits():
    workspace = Workspace()
    first = workspace.take("a", (3, 5), torch.float32, CPU)
    second = workspace.take("a", (2, 2, 4), torch.float32, CPU)
    assert second.shape == (2, 2, 4)
    assert second.is_contiguous()
    assert first.data_ptr() == second.data_ptr()


def test_names_and_dtypes_do_not_share_memory():
    workspace = Workspace()
    taken = [workspace.take(n, (4,), t, CPU) for n in "ab" for t in (torch.float32, torch.float64)]
    assert len({t.data_ptr() for t in taken}) == 4


def test_it_holds_at_most_twice_the_largest_request():
    workspace = Workspace()
    for count in (1, 1000, 3, 1025, 900, 0):
        workspace.take("a", (count,), torch.float32, CPU)
    (buffer,) = workspace._buffers.values()
    assert buffer.numel() == 2048


def test_nothing_may_be_asked_for():
    assert Workspace().take("a", (0, 4), torch.float32, CPU).shape == (0, 4)
