"""Device, precision, random streams, memory."""

import ctypes
import os
import re
import resource
import sys
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch

from inside_cnn.core.errors import UserError

DEVICE_HELP = "auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"
PRECISION_HELP = (
    "fp32, bf16 (autocast; weights and losses stay float32), or auto: bf16 where the chip "
    "multiplies it in hardware"
)
COMPILE_HELP = (
    "of training on CUDA: auto has torch.compile make LayerNorm's kernels, pads maps to a multiple "
    "of 16 channels in bf16, and, with one process, captures the step as a CUDA graph"
)


def launched():
    """(rank, number of processes, index on this machine or None), as torchrun or srun set them.

    Without WORLD_SIZE there is one process. Raises UserError for numbers that do not fit.
    """
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, None
    values = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    valid = all(value is None or value.isdecimal() for value in values.values())
    rank, world, local = (int(v) if valid and v else None for v in values.values())
    if rank is None or world is None or rank >= world:
        listed = ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        raise UserError(
            f"the environment has {listed}: these have to be whole numbers, RANK from 0 to "
            "WORLD_SIZE - 1"
        )
    return rank, world, local


def pick_device(name):
    """torch.device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    _, world, local = launched()
    if name == "cuda" and local is not None:
        name = f"cuda:{local}"  # one GPU for each process
    elif name != "cuda" and world > 1:
        raise UserError(f"--device {name} puts all processes on one GPU; take --device cuda")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    index = int(match[1] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise UserError(
            f"--device {name}, but this machine has {count} usable CUDA device(s); "
            "take --device auto or --device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device(name)


def pick_precision(name, device):
    """`fp32` or `bf16` for `auto`, `fp32` or `bf16` on that device. Raises UserError."""
    if name not in ("auto", "fp32", "bf16"):
        raise UserError(f"--precision must be auto, fp32 or bf16, not {name!r}")
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
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # of older PyTorch
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
        return torch.cuda.max_memory_reserved(device)  # CUDA graphs keep their memory
    if sys.platform == "linux":  # ru_maxrss would include the launcher's
        peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        if peak is not None:  # some sandboxes do not report it
            return 1024 * int(peak[1])
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Stream(IntEnum):
    """Purposes of random numbers. The values belong to published results and unfinished runs.

    A script uses the members of its own group, so two groups may share values; in Python the later
    one is then another name of the same member.
    """

    REAL, FAKE_FOR_D, FAKE_FOR_G, PREVIEW = 0, 1, 2, 3  # train_gan.py
    AUGMENTATION, FLIPS = 0, 1  # train_discriminator.py
    ROUNDED = 0  # reporting.publish: samples before and after rounding to 8 bits
    LATENTS, WALKS, TRAINING_SCORES = 10, 11, 12  # samples
    NOISY_IMAGES = 20  # metrics/baselines.py
    STUDY, PERTURB, STUDY_NOISE = 30, 31, 32  # attacks
    NOISE_IN_BANDS = 40  # interpretability/frequency.py
    BASELINE_SETS = 41  # interpretability/critic_score.py


def random_stream(device, seed, *stream):
    """A torch.Generator on `device`, a function of the seed and of `stream`.

    stream: a Stream, and numbers such as the step. No random state is carried from step to step, so
    a resumed run continues as if it had never stopped.
    """
    state = np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def keep_freed_memory():
    """Have glibc keep freed blocks instead of returning them to the kernel.

    The activations of a step are tens of MB each. By default glibc maps and unmaps each of them,
    and the kernel clears their pages every time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # macOS and musl have none
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # from malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)
        mallopt(m_top_pad, 256 * 2**20)
