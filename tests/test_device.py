"""Where and in which numbers to compute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lwm_agent.compute import device
from lwm_agent.compute.device import any_gpu, arrange_weights, count_devices, fast_bf16, one_gpu, resolve_device
from lwm_agent.errors import UserError

INTEL, AMD = "vendor_id\t: GenuineIntel\nflags\t\t: fpu {}\n", "vendor_id\t: AuthenticAMD\nflags\t\t: fpu {}\n"


@pytest.mark.parametrize(
    ("cpu", "fast"),
    [
        (INTEL.format("avx512_bf16 amx_bf16 amx_tile"), True),
        (INTEL.format("avx512_bf16"), False),  # Cooper Lake, and virtual machines that hide AMX
        (INTEL.format("avx512f"), False),
        (AMD.format("avx512_bf16"), True),
        (AMD.format("avx2"), False),
        ("", False),  # no /proc/cpuinfo
    ],
)
def test_bfloat16_is_for_cpus_that_gain_from_it(cpu: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_info", lambda: cpu)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert fast_bf16(torch.device("cpu")) == fast
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not fast_bf16(torch.device("cpu"))


def test_a_machine_without_a_description_of_its_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, encoding: str | None = None) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(Path, "read_text", missing)
    device._cpu_info.cache_clear()
    assert not fast_bf16(torch.device("cpu"))
    device._cpu_info.cache_clear()


def test_weights_are_arranged_in_a_copy_that_computes_the_same() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 3))
    arranged = arrange_weights(network, torch.device("cpu"), bf16=False)
    for ours, theirs in ((network[0], arranged[0]), (network[2], arranged[2])):
        assert ours.weight.stride() == (ours.in_features, 1)  # files of weights want them so
        assert theirs.weight.stride() == (1, ours.out_features)
        assert torch.equal(ours.weight, theirs.weight)
    rows = torch.randn(7, 24, requires_grad=True)
    gradients = [torch.autograd.grad(part(rows).square().sum(), rows)[0] for part in (network, arranged)]
    torch.testing.assert_close(arranged(rows), network(rows))
    torch.testing.assert_close(*gradients)
    elsewhere = arrange_weights(network, torch.device("meta"), bf16=True)
    assert (elsewhere[0].weight.device.type, elsewhere[0].weight.dtype) == ("meta", torch.bfloat16)
    assert arrange_weights(network, torch.device("meta"), bf16=False)[0].weight.stride() == (24, 1)
    assert network[0].weight.device.type == "cpu"  # agents on several devices may share a checkpoint


@pytest.mark.parametrize("name", ["", "tpu", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:0", "cuda:0:1"])
def test_unknown_device_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UserError, match=rf"device='{name}' is unknown: choose one of auto, cpu, cuda, mps"):
        resolve_device(name)


def test_gpu_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("auto").type == "cuda"
    with pytest.raises(UserError, match=r"'cuda:2' is not available.*choose one of auto, cuda, cpu, cuda:0, cuda:1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"'cuda:0' is not available on this machine: choose one of auto, "):
        resolve_device("cuda:0")


def test_each_process_sees_one_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number, seen in ((0, "0"), (2, "2"), (4, "1")):
        with one_gpu(number):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    with one_gpu(3):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,GPU-7"


@pytest.mark.parametrize(("name", "gpu", "count"), [("auto", True, 3), ("cuda", True, 3), ("cuda:1", False, 1)])
def test_a_gpu_by_number_is_one_device(name: str, gpu: bool, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert (any_gpu(name), count_devices(name)) == (gpu, count)
    assert (any_gpu("cpu"), count_devices("cpu")) == (False, 1)
