"""What a run stands on: device, precision, random numbers, memory, stop signals."""

import contextlib
import ctypes
import math
import os
import re
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

DEVICE_HELP = "auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"
PRECISION_HELP = (
    "fp32, bf16 (autocast; weights and losses stay float32), or auto: bf16 where the chip "
    "multiplies it in hardware"
)
COMPILE_HELP = (
    "of training on CUDA with one process: auto has torch.compile make LayerNorm's kernels, fills "
    "maps up to a multiple of 16 channels in bf16, and records the step as a CUDA graph"
)


class DeviceError(Exception):
    """The device or precision asked for is not to be had here."""


class Stopped(Exception):
    """The run ended before its end was reached, or without all its files; the message says why."""

    def __init__(self, exit_code, message):
        super().__init__(message)
        self.exit_code = exit_code


def stopped(number, step, saved, failed_code):
    """The Stopped for a run that ends after `step`, by that signal, or 0: its time is up.

    saved: the checkpoint just written, None where that failed; failed_code: the exit code then,
    unless it was a signal, whose code its sender waits for.
    """
    why = f"stopped by {signal.Signals(number).name}" if number else "time is up"
    if saved is None:
        message = f"{why} after step {step}, which could not be saved"
        return Stopped(128 + number if number else failed_code, message)
    message = f"{why} after step {step}; the same command goes on from {saved}"
    return Stopped(128 + number if number else 0, message)


class _Tolerant:
    """A text stream that drops what it cannot write: to a full disk, say, or a closed pipe.

    After the first failure the stream's file is /dev/null, so that nothing fails at exit either.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def _try(self, action, *args):
        try:
            return action(*args)
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def write(self, text):
        return self._try(self._stream.write, text)

    def flush(self):
        return self._try(self._stream.flush)


def exit_code_of(task, args, user_errors):
    """Run a script's task; a user's error becomes one line on stderr and exit code 2.

    No failing print ends the task.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Tolerant, streams)
    try:
        task(args)
    except Stopped as stopped:
        print(stopped, flush=True)
        return stopped.exit_code
    except user_errors as error:
        if os.environ.get("RANK", "0") == "0":  # once, not once for each process of torchrun
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = streams
    return 0


def pick_device(name):
    """torch.device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises DeviceError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    local = name == "cuda" and os.environ.get("LOCAL_RANK")  # set by torchrun: one GPU each
    if local:
        name = f"cuda:{local}"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda" and int(os.environ.get("WORLD_SIZE", 1)) > 1 and not local:
        raise DeviceError(f"--device {name} puts all processes on one GPU; take --device cuda")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise DeviceError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= found:
        raise DeviceError(
            f"--device {name}, but this machine has {found} usable CUDA device(s); "
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
        found = get()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def pick_compile(name, device, processes=1):
    """Whether training runs compiled and recorded: `auto` does on CUDA, with one process."""
    return name == "auto" and device.type == "cuda" and processes == 1


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


class StopSignal:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the training loop reads after each step.

    Nothing is saved inside the handler: it may interrupt any line, a save included. A second SIGINT
    gives up at once.

        with StopSignal() as stop:
            ...
            if stop.number: save; break
    """

    def __init__(self):
        self.number = 0
        self._interrupts = 0
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame):
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 2:
                os._exit(130)
        self.number = number


class Clock:
    """When the next checkpoint is due by the clock, and when the run's time is up; None: never.

    The curves are due every 30 seconds: on a GPU an epoch may take less than 5, drawing them a
    tenth of that.
    """

    def __init__(self, save_every_minutes=None, max_minutes=None):
        self.save_every_minutes, self.max_minutes = save_every_minutes, max_minutes
        self.start = self.last_save = time.monotonic()
        self.last_curves = -math.inf

    def curves_due(self):
        """Whether they are, at the end of an epoch; they are then taken as drawn."""
        due = time.monotonic() - self.last_curves >= 30
        self.last_curves = time.monotonic() if due else self.last_curves
        return due

    def saved(self):
        self.last_save = time.monotonic()

    def save_due(self):
        waited = time.monotonic() - self.last_save
        return self.save_every_minutes is not None and waited >= 60 * self.save_every_minutes

    def time_up(self):
        return self.max_minutes is not None and (
            time.monotonic() - self.start >= 60 * self.max_minutes
        )


class FiniteGuard:
    """Keeps an optimizer step whose loss or gradient is not finite from being taken, nor any after.

    The decision stays on the device: fused Adam leaves weights and state as they are where its
    `found_inf` is 1, so nobody waits for the GPU. The first bad step is read where the run logs or
    saves anyway, and every `every` steps (on the CPU, where reading costs nothing, every step).
    """

    def __init__(self, device, every=50):
        self.every = 1 if device.type == "cpu" else every
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)  # 0: none yet

    def step(self, optimizer, loss, number):
        """optimizer.step(), if the loss, all gradients and all steps before were finite.

        number: of this step, from 1, a number or a tensor of one. All ranks decide alike: loss and
        gradients were summed over them before, and what is not finite on one is then not finite on
        any.
        """
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
        norms = torch._foreach_norm([g for g in gradients if g is not None])
        total = torch.stack(norms).sum() + loss
        bad = ~torch.isfinite(total) & (self.first_bad == 0)
        self.first_bad.copy_(torch.where(bad, number, self.first_bad))
        optimizer.grad_scale = None
        optimizer.found_inf = (self.first_bad > 0).float()
        optimizer.step()

    def bad_step(self, number):
        """The first bad step, 0 for none; looks only at every `every`-th number, or at None."""
        if number is not None and number % self.every:
            return 0
        return int(self.first_bad)
