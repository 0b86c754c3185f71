"""`make full` with a stand-in for python: which commands it gives, and what it does again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate_gan
import report
import train_discriminator
import train_gan
import visualization
from reporting import publish

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    "train_discriminator.py": train_discriminator,
    "train_gan.py": train_gan,
    "reporting.publish": publish,
    "evaluate_gan.py": evaluate_gan,
    "visualization.py": visualization,
    "report.py": report,
}
# Notes its arguments and leaves behind what make looks for; FAIL names a script that ends early,
# with an exit code of 0, as after --max_minutes.
STAND_IN = f"""#!{sys.executable}
import os, sys
from pathlib import Path
words = [word for word in sys.argv[1:] if word != "-m"]
with open(os.environ["NOTES"], "a") as notes:
    print(*words, sep="\\t", file=notes)
script, *flags = words
if script != os.environ.get("FAIL") and "--output_dir" in flags:
    folder = Path(flags[flags.index("--output_dir") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in os.environ["LEFT"].split():
        (folder / name).write_text(script)
"""


def put_python(venv, program):
    """Make a venv that counts as installed, with this program as its python."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(program)
    (venv / "bin" / "python").chmod(0o755)
    (venv / ".installed").touch()


@pytest.fixture
def make_full(tmp_path):
    """make_full(*variables, fail="", target="full") -> (exit code, [(script, args)], stderr)."""
    shown = sorted(path.name for path in (ROOT / "results" / "visualization").iterdir())
    put_python(tmp_path / "venv", STAND_IN)
    notes = tmp_path / "notes"
    environment = outside_make() | {
        "NOTES": str(notes),
        "LEFT": " ".join(["evaluation.json", *shown]),
    }

    def make_full(*variables, fail="", target="full"):
        notes.write_text("")
        folders = {"VENV": "venv", "FULL": "full", "RESULTS": "results"}
        folders = [f"{name}={tmp_path / folder}" for name, folder in folders.items()]
        result = subprocess.run(
            ["make", target, *folders, *variables],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment | {"FAIL": fail},
        )
        calls = []
        for line in notes.read_text().splitlines():
            script, *flags = line.split("\t")
            calls.append((script, SCRIPTS[script].parse_args(flags)))
        return result.returncode, calls, result.stderr

    return make_full


def outside_make():
    """The environment without what a make that runs the tests hands down."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}


def names(calls):
    return [script for script, _ in calls]


def test_from_nothing_every_stage_in_its_order_and_folder(make_full, tmp_path):
    code, calls, error = make_full()
    assert (code, error) == (0, "")
    assert names(calls[:4]) == [
        "train_discriminator.py",
        "train_gan.py",
        *["reporting.publish"] * 2,
    ]
    assert names(calls[4:]) == ["visualization.py", "evaluate_gan.py", "report.py"]
    full, results = tmp_path / "full", tmp_path / "results"
    classifier, gan = calls[0][1], calls[1][1]
    assert (classifier.dataset, classifier.output_dir) == ("cifar10", str(full / "baseline"))
    assert vars(classifier) == vars(
        train_discriminator.parse_args(
            ["--dataset", "cifar10", "--output_dir", str(full / "baseline")]
        )
    )
    assert (gan.dataset, gan.output_dir) == ("cifar10", str(full / "gan"))
    assert (gan.width, gan.epochs, gan.judge) == (196, 100, str(full / "baseline"))
    for (_, args), name in zip(calls[2:4], ("baseline", "gan"), strict=True):
        assert (args.run, args.target) == (str(full / name), str(results / name))
    assert calls[3][1].sample_epochs == [0, 1, 20, 100]
    later = dict(calls[4:])
    assert later["evaluate_gan.py"].generator == str(results / "gan")
    assert later["evaluate_gan.py"].judge == str(results / "baseline")
    assert later["visualization.py"].discriminator_without_G == str(results / "baseline")
    assert later["visualization.py"].discriminator_with_G == str(results / "gan")
    assert later["report.py"].output == str(full / "report.html")
    for name, place in {"baseline": results, "gan": results, "evaluation": full}.items():
        assert getattr(later["report.py"], name) == str(place / name)
    assert later["report.py"].visualization == str(full / "visualization")


def test_the_demo_alone_takes_shapes_where_there_is_no_cifar10(tmp_path):
    put_python(tmp_path / "venv", STAND_IN)
    done = subprocess.run(
        ["make", "-n", "demo", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for script in ("train_discriminator.py", "train_gan.py"):
        assert f"python {script} --dataset auto " in done.stdout


def test_the_ladder_trains_every_arm_and_each_fixed_generator_before_its_use(make_full, tmp_path):
    folders = [f"LADDER={tmp_path / 'ladder'}", f"LADDER_OUTPUT={tmp_path / 'runs'}"]
    code, calls, error = make_full(*folders, target="ladder")
    assert (code, error) == (0, "")
    trainings = {Path(args.output_dir).name: args for _, args in calls[::2]}
    published = [Path(args.target).name for _, args in calls[1::2]]
    assert list(trainings) == published
    seeds = {"full": 3, "none": 3, "none_early": 3, "penalty": 2, "frozen": 2, "trained": 2}
    assert set(trainings) == {f"{arm}_{k}" for arm, count in seeds.items() for k in range(count)}
    equal = ("width", "batch_size", "augmentation", "d_optimizer", "kernel_lr", "lr", "schedule")
    for name, args in trainings.items():
        arm, _, seed = name.rpartition("_")
        assert (args.critic, args.seed) == (arm.removesuffix("_early"), int(seed))
        assert args.dataset == "cifar10"
        assert all(getattr(args, n) == getattr(trainings["full_0"], n) for n in equal)
        assert args.epochs == 16 or arm == "none_early"
        if arm == "trained":
            assert args.fixed_generator == str(tmp_path / "ladder" / f"full_{seed}")
            assert published.index(f"full_{seed}") < published.index(name)


def test_the_published_pictures_are_those_that_are_copied(make_full, tmp_path):
    assert make_full()[0] == 0
    for folder, script in (
        ("visualization", "visualization.py"),
        ("evaluation", "evaluate_gan.py"),
    ):
        copied = {path.name: path.read_text() for path in (tmp_path / "results" / folder).iterdir()}
        published = [path.name for path in (ROOT / "results" / folder).iterdir()]
        assert copied == dict.fromkeys(published, script)


def test_what_is_done_is_not_done_again(make_full, tmp_path):
    make_full()
    (tmp_path / "venv" / ".installed").touch()
    assert names(make_full()[1]) == ["report.py"]
    (tmp_path / "full" / "visualized").unlink()  # killed in the midst of it
    assert names(make_full()[1]) == ["visualization.py", "report.py"]
    (tmp_path / "full" / "published").unlink()
    assert names(make_full()[1])[:2] == ["reporting.publish"] * 2


@pytest.mark.parametrize("script", ["train_discriminator.py", "train_gan.py"])
def test_a_training_that_ends_early_ends_all_and_goes_on(make_full, script):
    code, calls, error = make_full(fail=script)
    assert code == 2
    assert names(calls)[-1] == script
    assert "the same command goes on" in error
    code, calls, _ = make_full()
    assert code == 0
    assert names(calls)[0] == script


def test_other_settings_are_refused_once_a_training_has_begun(make_full):
    make_full("GAN_EPOCHS=20", fail="train_discriminator.py")
    assert make_full("GAN_EPOCHS=30")[0] == 0
    code, calls, error = make_full("GAN_EPOCHS=40")
    assert (code, calls) == (2, [])
    assert "GAN_EPOCHS=30" in error
    assert make_full("GAN_EPOCHS=30", "TRAIN_FLAGS=--width 8")[0] == 2
    assert make_full("GAN_EPOCHS=30")[0] == 0


def test_flags_for_all_trainings(make_full):
    _, calls, _ = make_full("GAN_EPOCHS=3", "TRAIN_FLAGS=--width 8 --limit_train 256 --epochs 9")
    classifier, gan = calls[0][1], calls[1][1]
    assert (classifier.width, classifier.limit_train, classifier.epochs) == (8, 256, 9)
    assert (gan.width, gan.limit_train, gan.epochs) == (8, 256, 3)
    assert calls[3][1].sample_epochs == [0, 1, 3]


def test_the_gan_is_trained_by_the_bare_command(make_full):
    """But for what neither weights nor the log's figures depend on."""
    _, calls, _ = make_full()
    harmless = {"judge", "output_dir", "evaluate_every", "save_every_epochs"}
    made, bare = vars(calls[1][1]), vars(train_gan.parse_args([]))
    assert made.keys() == bare.keys()
    assert {name for name in made if made[name] != bare[name]} == harmless


FAILS = """#!/bin/sh
echo "$*" >> "$NOTES"
case "$*" in *$CRASH*) exit 1 ;; train_gan*) sleep 0.5 ;; esac
"""


@pytest.mark.parametrize(
    "crash", ["demo/published", "train_discriminator.py", "train_gan.py", "nothing"]
)
def test_the_demo_ends_where_a_part_fails(tmp_path, crash):
    """Also where it failed long before the GAN, beside which it ran, was done."""
    put_python(tmp_path / "venv", FAILS)
    notes = tmp_path / "notes"
    command = ["make", "demo", f"VENV={tmp_path / 'venv'}", f"DEMO={tmp_path / 'demo'}"]
    environment = outside_make() | {"NOTES": str(notes), "CRASH": crash}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert result.returncode != 0  # at the latest where the pictures are named: there are none
    reached = any(line.startswith("report.py") for line in notes.read_text().splitlines())
    assert reached == (crash == "nothing")


RUN, DEV, EXPLORE = (f"requirements{what}.txt" for what in ("", "-dev", "-explore"))


@pytest.mark.parametrize(
    ("target", "stamps", "files"),
    [
        *[(target, [], [RUN]) for target in ("demo", "full", "data", "bench")],
        *[(target, [], [RUN, DEV]) for target in ("test", "lint")],
        ("explore", [], [RUN, EXPLORE]),
        ("explore", [".installed", ".installed-explore"], []),
        ("demo", [".installed"], []),
        ("test", [".installed"], [DEV]),
        ("test", [".installed", ".installed-dev"], []),
    ],
)
def test_a_target_installs_what_it_needs_once(tmp_path, target, stamps, files):
    for stamp in stamps:
        (tmp_path / stamp).touch()
    result = subprocess.run(
        ["make", "--dry-run", target, f"VENV={tmp_path}", f"FULL={tmp_path / 'full'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=outside_make(),
    )
    assert re.findall(r"pip install .*-r (\S+)", result.stdout) == files
