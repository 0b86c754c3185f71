"""`make full`, `make ladder` and `make demo`, with a fake python that logs its calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate_gan
import report
import train_discriminator
import train_gan
import visualization
from inside_cnn.reporting import publish
from processes import ROOT, write_command

MODULES = (train_discriminator, train_gan, evaluate_gan, visualization, report)
SCRIPTS = {f"{module.__name__}.py": module for module in MODULES} | {publish.__name__: publish}
# Without the variables of a `make test` that runs this test.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
# Logs its arguments and creates the files that make needs. STOP is a script that ends early with
# exit code 0, as after --max_minutes; FAIL and SLOW are parts of the arguments of a command that
# fails or takes a second.
FAKE_PYTHON = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
if sys.argv[1] == "-c":
    sys.exit()
script, *flags = [argument for argument in sys.argv[1:] if argument != "-m"]
with open(os.environ["CALLS"], "a") as calls:
    print(script, *flags, sep="\\t", file=calls)
if os.environ.get("SLOW", "nothing") in " ".join(sys.argv):
    time.sleep(1)
if os.environ.get("FAIL", "nothing") in " ".join(sys.argv):
    sys.exit(1)
if script != os.environ.get("STOP") and "--output_dir" in flags:
    folder = Path(flags[flags.index("--output_dir") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in os.environ["FILES"].split():
        (folder / name).write_text(script)
"""


def run_make(*arguments, **environment):
    command, environment = ["make", *arguments], ENVIRONMENT | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def make(tmp_path):
    """make(target, *variables, code=0, **environment) -> ([(script, args)], output)."""
    write_command(tmp_path / "venv/bin/python", FAKE_PYTHON)
    (tmp_path / "venv/.installed").touch()
    log = tmp_path / "calls"
    figures = sorted(path.name for path in (ROOT / "results" / "visualization").iterdir())
    places = ("VENV", "FULL", "RESULTS", "DEMO", "LADDER", "LADDER_OUTPUT", "FINDINGS")
    folders = [f"{name}={tmp_path / name.lower()}" for name in places]
    own = {"CALLS": str(log), "FILES": " ".join(["evaluation.json", *figures])}

    def make(target, *variables, code=0, **environment):
        log.write_text("")
        done, calls = run_make(target, *folders, *variables, **own, **environment), []
        for line in log.read_text().splitlines():
            script, *flags = line.split("\t")
            calls.append((script, SCRIPTS[script].parse_args(flags)))
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        return calls, output

    return make


def names(calls):
    return [script for script, _ in calls]


def test_full_experiment(make, tmp_path):
    calls, _ = make("full")
    expected = ["train_discriminator.py", "train_gan.py", *[publish.__name__] * 2]
    assert names(calls) == [*expected, "visualization.py", "evaluate_gan.py", "report.py"]
    full, results = tmp_path / "full", tmp_path / "results"
    # The trainings are the bare commands, except for flags that do not change the weights.
    harmless = {"judge", "output_dir", "evaluate_every", "save_every_epochs"}
    for training, publishing, name in ((0, 2, "baseline"), (1, 3, "gan")):
        (script, args), (_, published) = calls[training], calls[publishing]
        bare = vars(SCRIPTS[script].parse_args([]))
        assert {key for key in bare if vars(args)[key] != bare[key]} <= harmless
        assert args.output_dir == published.run == str(full / name)
        assert published.target == str(results / name)
    assert calls[3][1].sample_epochs == [0, 100]
    later = dict(calls[4:])
    assert later["evaluate_gan.py"].generator == str(results / "gan")
    assert later["evaluate_gan.py"].judge == str(results / "baseline")
    assert later["visualization.py"].discriminator_without_G == str(results / "baseline")
    assert later["visualization.py"].discriminator_with_G == str(results / "gan")
    places = {"baseline": results, "gan": results, "evaluation": full, "visualization": full}
    for name, place in places.items():
        assert getattr(later["report.py"], name) == place / name
    for folder in ("visualization", "evaluation"):
        copied = {path.name for path in (results / folder).iterdir()}
        assert copied == {path.name for path in (ROOT / "results" / folder).iterdir()}

    # Finished stages are not repeated.
    (tmp_path / "venv" / ".installed").touch()
    assert names(make("full")[0]) == ["report.py"]
    (full / "visualized").unlink()
    assert names(make("full")[0]) == ["visualization.py", "report.py"]


@pytest.mark.parametrize("script", ["train_discriminator.py", "train_gan.py"])
def test_stopped_training_ends_make_and_resumes(make, script):
    calls, output = make("full", STOP=script, code=2)
    assert names(calls)[-1] == script
    assert "the same command resumes" in output
    assert names(make("full")[0])[0] == script


def test_train_flags_apply_to_all_trainings_and_cannot_change(make):
    flags = ("GAN_EPOCHS=3", "TRAIN_FLAGS=--width 8 --limit_train 256 --epochs 9")
    calls, _ = make("full", *flags)
    classifier, gan = calls[0][1], calls[1][1]
    assert (classifier.width, classifier.limit_train, classifier.epochs) == (8, 256, 9)
    assert (gan.width, gan.limit_train, gan.epochs) == (8, 256, 3)
    assert calls[3][1].sample_epochs == [0, 3]
    calls, output = make("full", "GAN_EPOCHS=4", flags[1], code=2)
    assert calls == []
    assert "GAN_EPOCHS=3" in output


def test_ladder_trains_every_arm_after_its_fixed_generator(make, tmp_path):
    calls, _ = make("ladder")
    trainings = {Path(args.output_dir).name: args for _, args in calls[::2]}
    published = [Path(args.target).name for _, args in calls[1::2]]
    assert list(trainings) == published
    with_samples = [Path(args.target).name for _, args in calls[1::2] if args.sample_epochs]
    assert with_samples == ["relativistic_0"]
    seeds = {"full": 3, "none": 3, "none_early": 3, "penalty": 2, "frozen": 2, "trained": 2}
    seeds |= {"relativistic": 1}
    assert set(trainings) == {f"{arm}_{k}" for arm, count in seeds.items() for k in range(count)}
    equal = ("width", "batch_size", "augmentation", "d_optimizer", "muon_lr", "lr", "schedule")
    for name, args in trainings.items():
        arm, _, seed = name.rpartition("_")
        critic = {"none_early": "none", "relativistic": "full"}.get(arm, arm)
        assert (args.critic, args.seed) == (critic, int(seed))
        assert all(getattr(args, n) == getattr(trainings["full_0"], n) for n in equal)
        assert args.epochs == 16 or arm == "none_early"
        if arm == "trained":
            assert args.fixed_generator == str(tmp_path / "ladder" / f"full_{seed}")
            assert published.index(f"full_{seed}") < published.index(name)


def test_findings_compare_the_published_control_networks(make, tmp_path):
    for name in ("full_0", "none_1"):
        (tmp_path / "ladder" / name).mkdir(parents=True)
    calls, _ = make("findings")
    assert calls[0][1].networks == [str(tmp_path / "ladder" / n) for n in ("full_0", "none_1")]
    assert calls[0][1].study_images == 1000
    assert (tmp_path / "ladder/summary.json").read_text() == "visualization.py"


PARQUET = "plain_text/train-00000-of-00001.parquet"
CIFAR10_FORMS = ("cifar-10-batches-py", "cifar-10-binary.tar.gz", "data_batch_1", PARQUET)


@pytest.mark.parametrize("path", [*CIFAR10_FORMS, "train/cat/1.png"])
def test_demo_uses_cifar10_in_every_form(make, tmp_path, path):
    (tmp_path / "data" / path).parent.mkdir(parents=True)
    (tmp_path / "data" / path).touch()
    calls, _ = make("demo_gan", CIFAR10_DIR=str(tmp_path / "data"))
    assert calls[0][1].dataset == ("cifar10" if path in CIFAR10_FORMS else "shapes")


@pytest.mark.parametrize("fail", ["published", "train_discriminator.py", "train_gan.py", "nothing"])
def test_demo_stops_if_a_part_fails(make, fail):
    """Also if a part fails that runs in parallel with the GAN. No other training starts then."""
    calls, _ = make("demo", FAIL=fail, SLOW="published", code=2)  # there are no figures to list
    assert ("report.py" in names(calls)) == (fail == "nothing")
    trainings = {name: args.dataset for name, args in calls if name.startswith("train")}
    assert set(trainings.values()) <= {"shapes", "cifar10"}
    assert ("train_discriminator.py" in trainings) == (fail not in ("published", "train_gan.py"))


@pytest.mark.parametrize("broken", ["dangling", "without pip"])
def test_a_broken_environment_is_created_again(tmp_path, broken):
    """As without Debian's python3-venv, or after an upgrade of the system's Python."""
    venv, log, python = tmp_path / "venv", tmp_path / "calls", tmp_path / "python3"
    write_command(venv / "bin/python", '#!/bin/sh\n[ "$2" = pass ]\n')
    (venv / "pyvenv.cfg").touch()
    if broken == "dangling":
        (venv / "pyvenv.cfg").rename(venv / ".installed")
        (venv / "bin/python").unlink()
        (venv / "bin/python").symlink_to(tmp_path / "absent")
    write_command(python, f'#!/bin/sh\necho "$@" >> {log}\n[ "$1" = -c ]\n')
    assert run_make("install", f"VENV={venv}", f"PYTHON={python}").returncode == 2
    assert log.read_text().splitlines()[-1] == f"-m venv --clear {venv}"


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="a GPU: the CUDA build is right")
@pytest.mark.parametrize(
    ("flags", "batch_system", "first"),
    [
        (
            [],
            False,
            "--isolated --index-url https://download.pytorch.org/whl/cpu --timeout 5 --retries 0",
        ),
        ([], True, "-r requirements.txt"),
        (["TORCH_INDEX=https://a/b"], True, "--force-reinstall --index-url https://a/b"),
    ],
)
def test_the_cpu_build_is_installed_without_a_gpu(tmp_path, flags, batch_system, first):
    script = f'[ "$1" = -c ] || echo "$@" >> {tmp_path}/calls'
    for path in ("venv/bin/python", "commands/sbatch"):
        command = f'#!/bin/sh\n[ "$2" = "import torch" ] && exit 1\n{script}\n'
        write_command(tmp_path / path, command)
    path = f"{tmp_path / 'commands'}:/usr/bin:/bin" if batch_system else "/usr/bin:/bin"
    assert run_make("install", f"VENV={tmp_path / 'venv'}", *flags, PATH=path).returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert first in calls[0]
    assert calls[0].endswith("torch>=2.10 torchvision>=0.25") == (len(calls) == 2)
    assert calls[-1].endswith("-r requirements.txt")
