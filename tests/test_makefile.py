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

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    "train_discriminator.py": train_discriminator,
    "train_gan.py": train_gan,
    "inside_cnn.reporting.publish": publish,
    "evaluate_gan.py": evaluate_gan,
    "visualization.py": visualization,
    "report.py": report,
}
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


@pytest.fixture
def make(tmp_path):
    """make(target, *variables, **environment) -> (exit code, [(script, args)], output)."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").write_text(FAKE_PYTHON)
    (tmp_path / "venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "venv" / ".installed").touch()
    log = tmp_path / "calls"
    figures = sorted(path.name for path in (ROOT / "results" / "visualization").iterdir())
    folders = {"VENV": "venv", "FULL": "full", "RESULTS": "results", "DEMO": "demo"}
    folders |= {"LADDER": "ladder", "LADDER_OUTPUT": "runs", "FINDINGS": "findings"}
    folders = [f"{name}={tmp_path / folder}" for name, folder in folders.items()]
    # Without the variables of a `make test` that runs this test.
    variables_of_make = ("MAKE", "MFLAGS")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(variables_of_make)}
    inherited |= {"CALLS": str(log), "FILES": " ".join(["evaluation.json", *figures])}

    def make(target, *variables, **environment):
        log.write_text("")
        done = subprocess.run(
            ["make", target, *folders, *variables],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=inherited | environment,
        )
        calls = []
        for line in log.read_text().splitlines():
            script, *flags = line.split("\t")
            calls.append((script, SCRIPTS[script].parse_args(flags)))
        return done.returncode, calls, done.stdout + done.stderr

    return make


def names(calls):
    return [script for script, _ in calls]


def test_full_experiment(make, tmp_path):
    code, calls, output = make("full")
    assert code == 0, output
    trainings = ["train_discriminator.py", "train_gan.py"]
    assert names(calls[:4]) == [*trainings, *["inside_cnn.reporting.publish"] * 2]
    assert names(calls[4:]) == ["visualization.py", "evaluate_gan.py", "report.py"]
    full, results = tmp_path / "full", tmp_path / "results"
    # The trainings are the bare commands, except for flags that do not change the weights.
    harmless = {"judge", "output_dir", "evaluate_every", "save_every_epochs"}
    for (script, args), name in zip(calls, ("baseline", "gan"), strict=False):
        bare = vars(SCRIPTS[script].parse_args([]))
        assert {key for key in bare if vars(args)[key] != bare[key]} <= harmless
        assert args.output_dir == str(full / name)
    for (_, args), name in zip(calls[2:4], ("baseline", "gan"), strict=True):
        assert (args.run, args.target) == (str(full / name), str(results / name))
    assert calls[3][1].sample_epochs == [0, 20, 100]
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
    assert names(make("full")[1]) == ["report.py"]
    (full / "visualized").unlink()
    assert names(make("full")[1]) == ["visualization.py", "report.py"]


@pytest.mark.parametrize("script", ["train_discriminator.py", "train_gan.py"])
def test_stopped_training_ends_make_and_resumes(make, script):
    code, calls, output = make("full", STOP=script)
    assert code == 2
    assert names(calls)[-1] == script
    assert "the same command resumes" in output
    code, calls, _ = make("full")
    assert code == 0
    assert names(calls)[0] == script


def test_train_flags_apply_to_all_trainings_and_cannot_change(make):
    flags = ("GAN_EPOCHS=3", "TRAIN_FLAGS=--width 8 --limit_train 256 --epochs 9")
    code, calls, _ = make("full", *flags)
    assert code == 0
    classifier, gan = calls[0][1], calls[1][1]
    assert (classifier.width, classifier.limit_train, classifier.epochs) == (8, 256, 9)
    assert (gan.width, gan.limit_train, gan.epochs) == (8, 256, 3)
    assert calls[3][1].sample_epochs == [0, 3]
    code, calls, output = make("full", "GAN_EPOCHS=4", flags[1])
    assert (code, calls) == (2, [])
    assert "GAN_EPOCHS=3" in output


def test_ladder_trains_every_arm_after_its_fixed_generator(make, tmp_path):
    code, calls, output = make("ladder")
    assert code == 0, output
    trainings = {Path(args.output_dir).name: args for _, args in calls[::2]}
    published = [Path(args.target).name for _, args in calls[1::2]]
    assert list(trainings) == published
    seeds = {"full": 3, "none": 3, "none_early": 3, "penalty": 2, "frozen": 2, "trained": 2}
    assert set(trainings) == {f"{arm}_{k}" for arm, count in seeds.items() for k in range(count)}
    equal = ("width", "batch_size", "augmentation", "d_optimizer", "muon_lr", "lr", "schedule")
    for name, args in trainings.items():
        arm, _, seed = name.rpartition("_")
        assert (args.critic, args.seed) == (arm.removesuffix("_early"), int(seed))
        assert all(getattr(args, n) == getattr(trainings["full_0"], n) for n in equal)
        assert args.epochs == 16 or arm == "none_early"
        if arm == "trained":
            assert args.fixed_generator == str(tmp_path / "ladder" / f"full_{seed}")
            assert published.index(f"full_{seed}") < published.index(name)


def test_findings_compare_the_published_control_networks(make, tmp_path):
    for name in ("full_0", "none_1"):
        (tmp_path / "ladder" / name).mkdir(parents=True)
    code, calls, output = make("findings")
    assert code == 0, output
    assert calls[0][1].networks == [str(tmp_path / "ladder" / n) for n in ("full_0", "none_1")]
    assert calls[0][1].study_images == 1000
    assert (tmp_path / "ladder/summary.json").read_text() == "visualization.py"


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("cifar-10-batches-py", "cifar10"),
        ("cifar-10-binary.tar.gz", "cifar10"),
        ("data_batch_1", "cifar10"),
        ("plain_text/train-00000-of-00001.parquet", "cifar10"),
        ("train/cat/1.png", "shapes"),
    ],
)
def test_demo_uses_cifar10_in_every_form(make, tmp_path, path, dataset):
    (tmp_path / "data" / path).parent.mkdir(parents=True)
    (tmp_path / "data" / path).touch()
    code, calls, output = make("demo_gan", CIFAR10_DIR=str(tmp_path / "data"))
    assert code == 0, output
    assert calls[0][1].dataset == dataset


@pytest.mark.parametrize("fail", ["published", "train_discriminator.py", "train_gan.py", "nothing"])
def test_demo_stops_if_a_part_fails(make, fail):
    """Also if a part fails that runs in parallel with the GAN. No other training starts then."""
    code, calls, _ = make("demo", FAIL=fail, SLOW="published")
    assert code != 0  # the fake python makes no figures to list
    assert ("report.py" in names(calls)) == (fail == "nothing")
    trainings = {name: args.dataset for name, args in calls if name.startswith("train")}
    assert set(trainings.values()) <= {"shapes", "cifar10"}
    assert ("train_discriminator.py" in trainings) == (fail not in ("published", "train_gan.py"))


@pytest.mark.parametrize("broken", ["dangling", "without pip"])
def test_a_broken_environment_is_created_again(tmp_path, broken):
    """As without Debian's python3-venv, or after an upgrade of the system's Python."""
    venv, log, python = tmp_path / "venv", tmp_path / "calls", tmp_path / "python3"
    (venv / "bin").mkdir(parents=True)
    if broken == "dangling":
        (venv / ".installed").touch()
        (venv / "bin/python").symlink_to(tmp_path / "absent")
    else:
        (venv / "pyvenv.cfg").touch()
        (venv / "bin/python").write_text('#!/bin/sh\n[ "$2" = pass ]\n')
        (venv / "bin/python").chmod(0o755)
    python.write_text(f'#!/bin/sh\necho "$@" >> {log}\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    flags = [f"VENV={venv}", f"PYTHON={python}"]
    done = subprocess.run(["make", "install", *flags], cwd=ROOT, capture_output=True)
    assert done.returncode == 2
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
    venv, commands = tmp_path / "venv", tmp_path / "commands"
    for path in (venv / "bin/python", commands / "sbatch"):
        path.parent.mkdir(parents=True)
        script = f'[ "$1" = -c ] || echo "$@" >> {tmp_path}/calls'
        path.write_text(f'#!/bin/sh\n[ "$2" = "import torch" ] && exit 1\n{script}\n')
        path.chmod(0o755)
    path = f"{commands}:/usr/bin:/bin" if batch_system else "/usr/bin:/bin"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    run = ["make", "install", f"VENV={venv}", *flags]
    done = subprocess.run(run, cwd=ROOT, env=environment | {"PATH": path}, capture_output=True)
    assert done.returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert first in calls[0]
    assert calls[0].endswith("torch>=2.10 torchvision>=0.25") == (len(calls) == 2)
    assert calls[-1].endswith("-r requirements.txt")
