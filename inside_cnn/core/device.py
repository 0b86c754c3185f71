"""Device, precision, random streams, memory."""

import ctypes
import os
import re
import sys
from enum import IntEnum

import numpy as np
import torch

from inside_cnn.core.errors import UserError


def launched():
    """(rank, world size, local rank or None) from the environment of torchrun or srun.

    Raises UserError if WORLD_SIZE is set and one of them is not a number, or RANK is missing.
    """
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, None
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = os.environ.get("LOCAL_RANK")
        return rank, world, None if local is None else int(local)
    except (KeyError, ValueError) as error:
        text = f"WORLD_SIZE is set, but RANK is missing or no number: {error}"
        raise UserError(f"{text}; use torchrun or unset WORLD_SIZE") from None


def pick_device(name):
    """torch.device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises UserError.

    `auto` is the CPU if PyTorch was not built for the GPU, which is then printed.
    """
    auto = name == "auto"
    if auto:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    _, world, local = launched()
    if name == "cuda" and local is not None:
        # One GPU for each process; Slurm may show each process its own GPU only.
        name = "cuda:0" if torch.cuda.device_count() == 1 else f"cuda:{local}"
    elif name != "cuda" and world > 1:
        raise UserError(f"--device {name} puts all processes on one GPU; use --device cuda")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    index = int(match[1] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise UserError(
            f"--device {name}, but this machine has {count} usable CUDA device(s); "
            "use --device auto or --device cpu"
        )
    if not has_kernels(index):
        gpu = torch.cuda.get_device_name(index)
        message = f"PyTorch {torch.__version__} was not built for this GPU, {gpu}"
        if auto:
            print(f"note: {message}; using the CPU")
            return torch.device("cpu")
        raise UserError(f"--device {name}: {message}; install another build, or use --device cpu")
    torch.cuda.set_device(index)
    return torch.device(name)


def has_kernels(index):
    """Whether the installed PyTorch has machine code, or PTX code to compile, for a GPU."""
    if torch.version.hip:  # AMD
        return True
    major, minor = torch.cuda.get_device_capability(index)
    for architecture in torch.cuda.get_arch_list():  # such as sm_90a or compute_120
        kind, number = re.match(r"([a-z]+)_(\d+)", architecture).groups()
        built_for = divmod(int(number), 10)
        if built_for <= (major, minor) and (kind == "compute" or built_for[0] == major):
            return True
    return False


def pick_precision(name, device):
    """`fp32` or `bf16` for `auto`, `fp32` or `bf16` on that device."""
    if device.type == "cuda":
        # Else cuDNN computes float32 convolutions in TF32, with a mantissa of 10 bits.
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()  # without these bf16 is emulated and slower
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def autocast(device, precision):
    """The context in which a network's forward pass runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def describe_device(device):
    """The name of the device for config.json and the screen."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def peak_memory(device):
    """Peak memory in bytes: GPU memory reserved by PyTorch, else RAM of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # CUDA graphs keep their memory
    import resource  # here: Windows has none

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Stream(IntEnum):
    """Purposes of random numbers. Published results and unfinished runs depend on the values.

    A script uses the members of one group only, so groups may share values (as enum aliases).
    """

    REAL, FAKE_FOR_D, FAKE_FOR_G, PREVIEW = 0, 1, 2, 3  # train_gan.py
    AUGMENTATION = 0  # train_discriminator.py
    LATENTS, TRAINING_SCORES = 10, 12  # samples
    NOISY_IMAGES = 20  # metrics/baselines.py
    STUDY, STUDY_NOISE = 30, 32  # attacks
    NOISE_IN_BANDS = 40  # interpretability/frequency.py
    BASELINE_SETS = 41  # interpretability/critic_score.py


def random_stream(device, seed, *stream):
    """A torch.Generator on `device`, a function of the seed and of `stream`.

    stream: a Stream, and numbers such as the step. There is no random state to save, so a resumed
    run is identical to an uninterrupted one.
    """
    state = np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def keep_freed_memory():
    """Make glibc keep freed memory instead of returning it to the kernel.

    By default glibc maps and unmaps every activation, and the kernel clears its pages each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # macOS and musl have none
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # from malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)
        mallopt(m_top_pad, 256 * 2**20)
