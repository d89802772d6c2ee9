"""Threads, devices and the switches that make computing repeatable."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from d3po_core.devices import make_deterministic, pick_device, use_threads


def test_threads_are_fixed_for_the_thread_that_calls() -> None:
    """OpenMP's count is per thread, so a worker thread has to ask for itself."""
    before = torch.get_num_threads()
    seen = []

    def work() -> None:
        use_threads(1)
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [1]
    use_threads(None)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads is 0"):
        use_threads(0)


def test_no_tf32_and_no_autotuning() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    make_deterministic()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(ValueError, match=r"model\.device is 'cuda:1', but torch finds no CUDA device"):
            pick_device("cuda:1")


PEAK = """
import torch
from d3po_core.devices import peak_megabytes
before = peak_megabytes(torch.device("cpu"))
more = torch.ones(int(before * 1e6) // 4 + 25_000_000)
during = peak_megabytes(torch.device("cpu"))
del more
print(before, during, peak_megabytes(torch.device("cpu")))
"""


def test_a_peak_is_remembered() -> None:
    """In a process of its own, whose memory is its own."""
    repository = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", PEAK], cwd=repository, capture_output=True, text=True, check=True)
    before, during, after = map(float, said.stdout.split())
    assert before + 100 <= during < 2 * before + 200
    assert after >= during - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_the_gpu_of_this_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert pick_device("auto") == torch.device("cuda", 0)
