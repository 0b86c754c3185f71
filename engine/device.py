"""Where a script computes: device, precision, random streams, memory."""

import contextlib
import ctypes
import os
import re
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from engine.errors import UserError

DEVICE_HELP = "auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"
PRECISION_HELP = (
    "fp32, bf16 (autocast; weights and losses stay float32), or auto: bf16 where the chip "
    "multiplies it in hardware"
)
COMPILE_HELP = (
    "of training on CUDA: auto has torch.compile make LayerNorm's kernels, fills maps up to a "
    "multiple of 16 channels in bf16, and records the step as a CUDA graph"
)


DeviceError = UserError


def launched():
    """(rank, number of processes, index on this machine or None), as torchrun or its like set them.

    Without WORLD_SIZE there is one process, and what else may be set is left over from something.
    Raises DeviceError for numbers that do not fit.
    """
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, None
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    told = ", ".join(f"{name}={value}" for name, value in found.items() if value is not None)
    try:
        rank, world, local = (value if value is None else int(value) for value in found.values())
    except ValueError:
        raise DeviceError(f"the environment has {told}: whole numbers are wanted") from None
    if rank is None or not 0 <= rank < world or (local is not None and local < 0):
        raise DeviceError(f"the environment has {told}: RANK goes from 0 to WORLD_SIZE - 1")
    return rank, world, local


def pick_device(name):
    """torch.device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises DeviceError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    _, world, local = launched()
    if name == "cuda" and local is not None:
        name = f"cuda:{local}"  # one GPU for each process
    elif name != "cuda" and world > 1:
        raise DeviceError(f"--device {name} puts all processes on one GPU; take --device cuda")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise DeviceError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        raise DeviceError(
            f"--device {name}, but this machine has {count} usable CUDA device(s); "
            "take --device auto or --device cpu"
        )
    torch.cuda.set_device(int(match[1] or 0))
    return torch.device(name)


def pick_precision(name, device):
    """`fp32` or `bf16` for `auto`, `fp32` or `bf16` on that device. Raises DeviceError."""
    if name not in ("auto", "fp32", "bf16"):
        raise DeviceError(f"--precision must be auto, fp32 or bf16, not {name!r}")
    if device.type == "cuda":
        # Else cuDNN computes float32 convolutions in TF32, with a mantissa of 10 bits.
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16():
    """Whether the CPU has AVX512-BF16 or AMX; without them bf16 is emulated and slower."""
    get = getattr(torch.cpu, "get_capabilities", None)
    if get is not None:
        can = get()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def pick_compile(name, device):
    """Whether training runs compiled and recorded: `auto` does on CUDA."""
    return name == "auto" and device.type == "cuda"


def autocast(device, precision):
    """The context in which a network's forward pass runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def describe_device(device):
    """The device in words, for config.json and the screen."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def peak_memory(device):
    """Most bytes held so far: of GPU memory by PyTorch, else of RAM by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # recorded steps keep theirs for good
    with contextlib.suppress(OSError, StopIteration):  # Linux; ru_maxrss there counts the launcher
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def random_stream(device, seed, *stream):
    """A torch.Generator on `device`, a function of the seed and the numbers that name the stream.

    Training draws everything of a step from random_stream(device, seed, purpose, step). No random
    state is carried from step to step, so a resumed run needs none to go on as if never stopped.
    """
    words = np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0]) >> 1)


def keep_freed_memory():
    """Have glibc keep freed blocks instead of handing them back to the kernel.

    The activations of a step are tens of MB each. By default glibc maps and unmaps every one of
    them, and the kernel zeroes the pages anew each time.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # from malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)
        mallopt(m_top_pad, 256 * 2**20)
