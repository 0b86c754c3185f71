"""Every way out of a run of two processes, each of them started directly: torchrun hides codes."""

import os
import signal
import socket
import subprocess
import time

import pytest

import processes
from processes import ENVIRONMENT, ROOT, SMALL, command

SCRIPTS = ("train_gan.py", "train_discriminator.py")


@pytest.fixture
def start_two():
    """start_two(script, flags, flags of rank 1 alone) -> two running processes."""
    started = []

    def call(script, flags, of_rank_1=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in range(2):
            more = of_rank_1 if rank else ()
            started.append(
                subprocess.Popen(
                    command(script, [*flags, *more]),
                    cwd=ROOT,
                    env=ENVIRONMENT | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ends(processes):
    """(exit codes, what both wrote); the second has at most ten seconds after the first."""
    end = time.monotonic() + 120
    while all(process.poll() is None for process in processes):
        assert time.monotonic() < end, "no process came to its end"
        time.sleep(0.02)
    written = [process.communicate(timeout=10) for process in processes]
    return [process.returncode for process in processes], "".join(sum(written, ()))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_end_of_the_run(start_two, tmp_path, script):
    flags = [*SMALL, "--epochs", 1, "--output_dir", tmp_path / "run"]
    codes, written = ends(start_two(script, flags))
    assert codes == [0, 0], written
    assert written.count("peak memory") == 1
    codes, written = ends(start_two(script, flags)[2:])
    assert codes == [0, 0], written
    assert written.count("finished already") == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_time_is_up(start_two, tmp_path, script):
    flags = [*SMALL, "--epochs", 2, "--max_minutes", 0, "--output_dir", tmp_path / "run"]
    codes, written = ends(start_two(script, flags))
    assert codes == [0, 0], written
    assert written.count("time is up after step 1;") == 1
    assert "terminate called" not in written


@pytest.mark.slow
def test_time_is_up_fifty_times(start_two, tmp_path):
    flags = [*SMALL, "--max_minutes", 0, "--limit_test", 10, "--output_dir"]
    for attempt in range(50):
        pair = start_two("train_discriminator.py", [*flags, tmp_path / str(attempt)])[-2:]
        codes, written = ends(pair)
        assert codes == [0, 0], (attempt, written)


@pytest.mark.parametrize("receiver", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_stops_both(start_two, tmp_path, receiver):
    run = tmp_path / "run"
    flags = [*SMALL, "--epochs", 200, "--save_every_minutes", 0, "--output_dir", run]
    pair = start_two("train_gan.py", flags)
    processes.wait_until(
        lambda: processes.newest_step(run) or any(p.poll() is not None for p in pair)
    )
    os.kill(pair[receiver].pid, signal.SIGTERM)
    codes, written = ends(pair)
    assert codes == [143, 143], written
    assert written.count("stopped by SIGTERM after step") == 1


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_that_dies_ends_the_other(start_two, tmp_path, victim):
    run = tmp_path / "run"
    flags = [*SMALL, "--epochs", 200, "--save_every_minutes", 0, "--output_dir", run]
    pair = start_two("train_gan.py", flags)
    processes.wait_until(
        lambda: processes.newest_step(run) or any(p.poll() is not None for p in pair)
    )
    pair[victim].kill()
    codes, written = ends(pair)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 2, written
    assert written.count("error: the processes of this run lost each other") == 1
    assert "Traceback" not in written


@pytest.mark.slow
def test_divergence(start_two, tmp_path):
    flags = [*SMALL, "--epochs", 30, "--lr", "1e36", "--output_dir", tmp_path / "run"]
    codes, written = ends(start_two("train_discriminator.py", flags))
    assert codes == [3, 3], written
    assert written.count("diverged at step") == 1


@pytest.mark.slow
def test_an_error_of_both(start_two, tmp_path):
    (tmp_path / "file").write_text("")
    flags = [*SMALL, "--output_dir", tmp_path / "file" / "run"]
    codes, written = ends(start_two("train_gan.py", flags))
    assert codes == [2, 2], written
    assert written.count("error: ") == 1


@pytest.mark.parametrize(
    ("of_rank_1", "message"),
    [
        (["--device", "cuda:99"], "--device cuda:99 puts all processes on one GPU"),
        pytest.param(["--precision", "int4"], "--precision must be", marks=pytest.mark.slow),
        pytest.param(["--batch_size", 81], "81 is larger than the set", marks=pytest.mark.slow),
        pytest.param(["--seed", 5], "seed is 0 on rank 0, 5 on 1", marks=pytest.mark.slow),
    ],
)
def test_an_error_of_rank_1_ends_both_and_is_told_once(start_two, tmp_path, of_rank_1, message):
    flags = [*SMALL, "--output_dir", tmp_path / "run"]
    codes, written = ends(start_two("train_gan.py", flags, of_rank_1))
    assert codes == [2, 2], written
    assert written.count("error: ") == written.count(message) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_each_tells_its_own_error(start_two, tmp_path):
    flags = [*SMALL, "--device", "cuda:98", "--output_dir", tmp_path / "run"]
    codes, written = ends(start_two("train_gan.py", flags, ["--device", "abacus"]))
    assert codes == [2, 2], written
    assert written.count("error: ") == 2
    assert "cuda:98" in written
    assert "abacus" in written
