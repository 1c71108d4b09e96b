"""The element type goes by what the CPU is, so that two runs of one machine agree."""

import pytest
import torch

from joyhallo import device


def test_all_cores_are_given_back(monkeypatch):
    monkeypatch.setattr(device, "num_cores", lambda: 3)
    before = torch.get_num_threads()
    with device.all_cores():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("description", "dtype"),
    [
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16 amx_tile", torch.bfloat16),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", torch.float32),
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", torch.bfloat16),
        ("vendor_id : AuthenticAMD\nflags : avx2", torch.float32),
        ("", torch.float32),
    ],
)
def test_the_type_of_a_cpu_goes_by_its_instructions(description, dtype, monkeypatch):
    monkeypatch.setattr(device, "_cpu_description", lambda: description)
    assert device.choose_dtype("auto", torch.device("cpu")).value is dtype
    assert device.choose_dtype("fp32", torch.device("cpu")).value is torch.float32


@pytest.mark.parametrize(("description", "kernel"), [("AuthenticAMD", "onednn"), ("GenuineIntel", "mkl"), ("", "mkl")])
def test_the_linear_kernel_goes_by_the_maker(description, kernel, monkeypatch):
    monkeypatch.setattr(device, "_cpu_description", lambda: description)
    assert device.usual_linear_kernel() == kernel
