"""`make full` with a stand-in for python: which commands it gives, and what it does again."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate_gan
import report
import train_discriminator
import train_gan
import visualization
from reporting import publish, table_makers

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
    """make_full(*variables, fail="") -> (exit code, [(script, args)], stderr)."""
    shown = sorted(path.name for path in (ROOT / "results" / "visualization").iterdir())
    put_python(tmp_path / "venv", STAND_IN)
    notes = tmp_path / "notes"
    environment = outside_make() | {
        "NOTES": str(notes),
        "LEFT": " ".join(["evaluation.json", *shown]),
    }

    def make_full(*variables, fail=""):
        notes.write_text("")
        folders = {"VENV": "venv", "FULL": "full", "RESULTS": "results"}
        folders = [f"{name}={tmp_path / folder}" for name, folder in folders.items()]
        result = subprocess.run(
            ["make", "full", *folders, *variables],
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
    assert names(calls[4:]) == [
        *["train_discriminator.py", "reporting.publish"] * 4,
        "visualization.py",
        "evaluate_gan.py",
        "report.py",
    ]
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
    controls = ["seed_0", "seed_1", "seed_2", "as_critic"]
    for (_, trained), (_, shown), name in zip(calls[4:12:2], calls[5:12:2], controls, strict=True):
        control = full / "controls" / name
        (runs,) = (r for r in table_makers.RUNS if f"controls/{name}" in r.folders)
        command = shlex.split(runs.command)[2:]
        command += ["--seed", str(runs.folders[f"controls/{name}"])]
        command += ["--dataset", "cifar10", "--output_dir", str(control)]
        assert vars(trained) == vars(train_discriminator.parse_args(command))
        assert (shown.run, shown.target) == (str(control), str(results / "controls" / name))
        assert shown.logs_only
    later = dict(calls[12:])
    assert later["visualization.py"].control == [str(full / "controls" / name) for name in controls]
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
    controls = [args for script, args in calls[4:] if script == "train_discriminator.py"]
    assert [args.width for args in controls] == [8] * 4
    assert [args.epochs for args in controls] == [8] * 4
    assert [args.seed for args in controls] == [0, 1, 2, 0]


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
