"""Failed allocations are told from other errors, whoever made them."""

from __future__ import annotations

import pytest
import torch

from ctseg.engine.inference.forward import out_of_memory

# as torch and its libraries word them
WORDS = [
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
    "[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
    "MPS backend out of memory (MPS allocated: 9 GB, other allocations: 1 GB, max allowed: 10 GB).",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Exception from src/inference/src/cpp/infer_request.cpp:223:\nstd::bad_alloc",
]


@pytest.mark.parametrize("words", WORDS)
def test_a_failed_allocation_is_recognised_by_its_words(words):
    assert out_of_memory(RuntimeError(words))
    assert not out_of_memory(ValueError(words))


def test_errors_of_their_own_type_need_no_words():
    assert out_of_memory(torch.OutOfMemoryError()) and out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
