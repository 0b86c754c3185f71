import pytest

import train_discriminator
import train_gan
from compare import records
from inside_cnn.training.schedules import drops, triangular
from processes import SMALL
from steps import rates_taken


def test_linear_schedule_of_the_gan(run_main, refused, tmp_path):
    """Both optimizers take step n of 10 with the factor 1 - (n - 1) / 10, also after a resume."""
    flags = [*SMALL, "--recipe", "classic", "--schedule", "linear", "--log_every_steps", 1]
    flags += ["--output_dir", tmp_path / "run", "--epochs"]
    with rates_taken() as taken:
        for steps in (4, 10):
            assert run_main(train_gan, *flags, 2, "--max_steps", steps)[0] == 0
    falling = [1e-4 * (1 - step / 10) for step in range(10)]
    of_both = [rate for rate in falling for _ in ("discriminator", "generator")]
    assert [rate for rates in taken for rate in rates] == pytest.approx(of_both)
    assert [line["lr"] for line in records(tmp_path / "run")] == pytest.approx(falling)
    assert "epochs was 2, now 3" in refused(train_gan, *flags, 3)  # the rates depend on them


def test_triangular_schedule_of_the_classifier(run_main, tmp_path):
    flags = ["--epochs", 2, "--log_every_steps", 1, "--warmup", "0.2", "--muon_lr", "0.1"]
    with rates_taken() as taken:
        run_main(train_discriminator, *SMALL, *flags, "--output_dir", tmp_path / "run")
    shares = [0.25, 0.75] + [(10 - step - 0.5) / 8 for step in range(2, 10)]
    rates = [line["muon_lr"] for line in records(tmp_path / "run")]
    assert rates == pytest.approx([0.1 * share for share in shares])
    of_all = [rate * share for share in shares for rate in (0.1, 1.5e-3)]  # muon's, adamw's
    assert [rate for rates in taken for rate in rates] == pytest.approx(of_all)


def test_drops_and_a_triangle_without_warmup():
    factors = [drops(epoch, [50, 75]) for epoch in (0, 49, 50, 74, 75, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert triangular(0, 4, 0.0) == pytest.approx(0.875)
