import signal

import pytest
import torch

import processes
import quick_plots
import rank_worker
import train_discriminator
import train_gan
from compare import assert_same_run, records
from generator import sample_latents
from inside_cnn.core.errors import UserError
from inside_cnn.training import panels
from inside_cnn.training.distributed import check_batches
from inside_cnn.training.run import TrainingRun
from processes import EVERY_STEP, SMALL, run, started


@pytest.fixture(scope="module")
def batch():
    labels, fake_labels = torch.arange(8), torch.arange(8).flip(0)
    stream = torch.Generator().manual_seed(0)
    real = torch.rand(8, 3, 32, 32, generator=stream) * 2 - 1
    z = sample_latents(fake_labels, generator=stream)
    alpha = torch.rand(4, 1, 1, 1, generator=stream)
    return [real, labels, z, fake_labels, alpha]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, small_folder, batch):
    """(folder, flags of its run, exit codes, stdout, stderr) of two processes of rank_worker.py.

    They resume a run that a single process has stopped after its first step, in mid-epoch, with an
    uneven last batch and test set.
    """
    folder = tmp_path_factory.mktemp("two_ranks")
    torch.save(batch, folder / "batch.pt")
    flags = [*SMALL, *small_folder, "--epochs", "2", "--batch_size", "32", "--limit_test", "41"]
    flags += ["--output_dir"]
    with pytest.MonkeyPatch.context() as patch:
        quick_plots.use(patch.setattr)
        alone = [*flags, str(folder / "run"), "--max_minutes", "0"]
        assert train_discriminator.main(alone) == 0
    files = [folder / "batch.pt", folder / "of_two.pt", processes.free_port()]
    worker = "tests/helpers/rank_worker.py"
    return folder, flags, *run(worker, [*files, *flags, folder / "run"], ranks=2)


def test_gradients_of_two_ranks_equal_those_of_one(two_ranks, batch):
    """And the error of one rank ends both and is printed once."""
    folder, _, codes, _, err = two_ranks
    assert codes == [2, 2], err
    assert err.count("error: ") == err.count(f"error: {rank_worker.ERROR}\n") == 1
    of_two = torch.load(folder / "of_two.pt", weights_only=True)

    args = train_gan.parse_args(rank_worker.FLAGS)
    with TrainingRun(args, "train_gan.py", panels.GAN) as alone:
        gan = train_gan.GAN(alone, args)  # with the weights of the ranks
        gan.generator.eval()
        metrics = rank_worker.update(gan, batch)
    for name, value in of_two["means"].items():
        assert value.item() == pytest.approx(metrics[name].item(), rel=1e-5), name
    for name, parameter in gan.discriminator.named_parameters():
        error = (of_two["gradients"][name] - parameter.grad).abs().max()
        assert error <= 1e-5 * max(1.0, parameter.grad.abs().max()), name


def test_missing_address_of_rank_0_is_refused(refused, monkeypatch, tmp_path):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "MASTER_ADDR" in refused(train_gan, *SMALL, "--output_dir", tmp_path / "run")


def test_batches_that_cannot_be_shared_are_refused():
    for images, batch_size, drop_last in ((80, 15, True), (80, 2, True), (81, 16, False)):
        check_batches(images, batch_size, 1, drop_last)
        with pytest.raises(UserError, match=r"the 2 processes|there are processes"):
            check_batches(images, batch_size, 2, drop_last)


def test_resume_with_two_ranks_until_a_signal_to_one(run_main, two_ranks):
    """At last, one rank resumes the run."""
    folder, flags, _, out, err = two_ranks
    assert run_main(train_discriminator, *flags, folder / "whole")[0] == 0
    assert out.count("resumed after step 1\n") == 1, err
    assert out.count("stopped by SIGTERM after step 5") == 1
    assert "resumed after step 5\n" in run_main(train_discriminator, *flags, folder / "run")[1]
    pairs = zip(records(folder / "whole"), records(folder / "run"), strict=True)
    for one, two in pairs:  # the discriminator has no BatchNorm
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_gan.py", "train_discriminator.py"])
def test_resume_of_two_ranks_is_bit_identical(tmp_path, script):
    """The GAN stops between two generator steps. At last, one rank resumes the run."""
    more = ["--epochs", 2] + (["--gen_train", 2] if script == "train_gan.py" else [])

    def train(folder, *flags, ranks=2):
        flags = [*SMALL, *more, "--output_dir", tmp_path / folder, *flags]
        codes, out, err = run(script, flags, ranks)
        assert codes == [0] * ranks, out + err
        assert out.count("data: ") == 1  # rank 0 alone prints
        return out

    train("whole", "--max_steps", 5)
    assert "time is up after step 1" in train("parts", "--max_steps", 5, "--max_minutes", 0)
    assert "resumed after step 1" in train("parts", "--max_steps", 5)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert "resumed after step 5" in train("parts", ranks=1)
    assert [record["step"] for record in records(tmp_path / "parts")] == [5, 10]


@pytest.mark.slow
def test_time_is_up_fifty_times(tmp_path):
    flags = [*SMALL, "--max_minutes", 0, "--limit_test", 10, "--output_dir"]
    for attempt in range(50):
        codes, out, err = run("train_discriminator.py", [*flags, tmp_path / str(attempt)], ranks=2)
        assert codes == [0, 0], (attempt, err)
        assert out.count("time is up after step 1;") == 1
        assert "terminate called" not in err


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other(tmp_path, victim):
    flags = [*SMALL, *EVERY_STEP, "--epochs", 200, "--output_dir", tmp_path]
    with started("train_gan.py", flags, ranks=2) as pair:
        processes.wait_for_step(pair, tmp_path, 1)
        pair[victim].kill()
        codes, _, err = processes.ends(pair)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 2, err
    assert err.count("error: the processes of this run lost each other") == 1
    assert "Traceback" not in err
