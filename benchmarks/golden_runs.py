"""Do both trainings still give what they gave at another commit, to the last bit?

    python benchmarks/golden_runs.py HEAD~1 --data_dir data

Each combination of script, recipe, precision and number of processes runs at that commit and in the
working tree, on the CPU with one thread, for two epochs of 1,280 images: once whole, and once
stopped after its first step and resumed. The exported weights and the records of metrics.jsonl are
compared, except for speed, memory and fields that were added since. Rounding differs between
machines, so the results of a commit are only cached on this machine, in output/golden. The exit
code is 1 if anything differs.
"""

import argparse
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before the imports below
from inside_cnn.engine.older_versions import renamed

ROOT = Path(__file__).parent.parent
SCRIPTS = ("train_discriminator.py", "train_gan.py")
COMBINATIONS = tuple(
    itertools.product(SCRIPTS, ("classic", "muon"), ("fp32", "bf16"), (1, 2), ("whole", "cut"))
)
DELETED = ("discriminator_best.safetensors",)  # files that only older commits write


def train(tree, script, flags, processes):
    """Run a script of a tree to its end. Returns the exit code of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if processes > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {name: str(value) for name, value in place.items()}
        command = [sys.executable, script, *map(str, flags)]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=tree, env=environment, text=True, **pipes))
    errors = [process.communicate()[1] for process in started]
    codes = [process.returncode for process in started]
    for code, error in zip(codes, errors, strict=True):
        if code:
            print(f"{script} in {tree} ended with code {code}: {error[-2000:]}", file=sys.stderr)
    return codes


def weights_digest(path):
    """SHA-256 of the names and values of the tensors in a safetensors file."""
    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        old_layout = "layout" not in (file.metadata() or {})
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            if tensor.ndim == 3 and old_layout:
                tensor = tensor.movedim(-1, 0)
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def result_of(tree, data_dir, combination):
    """{file name: digest, "metrics.jsonl": its records} of one combination, None if it failed."""
    script, recipe, precision, processes, way = combination
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = ["--dataset", "cifar10", "--data_dir", data_dir, "--output_dir", run]
        flags += ["--limit_train", 1280, "--limit_test", 500, "--width", 16, "--epochs", 2]
        flags += ["--device", "cpu", "--recipe", recipe, "--precision", precision]
        if way == "cut":
            train(tree, script, [*flags, "--max_minutes", 0], processes)
            if not list((run / "checkpoints").glob("step_000000001.pt")):
                return None
        if any(train(tree, script, flags, processes)):
            return None
        lines = (run / "metrics.jsonl").read_text().splitlines()
        records = [renamed(json.loads(line)) for line in lines]
        for record in records:
            for name in ("images_per_second", "peak_memory_gb"):
                del record[name]
        files = [f for f in sorted(run.glob("*.safetensors")) if f.name not in DELETED]
        weights = {path.name: weights_digest(path) for path in files}
        return weights | {"metrics.jsonl": records}


def results_of(tree, data_dir, combinations):
    """{name of the combination: its result}. Two processes run at a time."""
    results = {}
    for processes in (1, 2):
        chosen = [c for c in combinations if c[3] == processes]
        with ThreadPoolExecutor(2 // processes) as pool:
            made = pool.map(lambda c: result_of(tree, data_dir, c), chosen)
            results |= {" ".join(map(str, c)): r for c, r in zip(chosen, made, strict=True)}
    return results


def expected_of(revision, data_dir, combinations):
    """The results of a commit, from output/golden if they are cached there."""
    git = ["git", "-C", str(ROOT)]
    command = [*git, "rev-parse", f"{revision}^{{commit}}"]
    commit = subprocess.check_output(command, text=True).strip()
    cache = ROOT / "output" / "golden" / f"{commit}.json"
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    missing = [c for c in combinations if known.get(" ".join(map(str, c))) is None]
    if missing:
        archive = subprocess.check_output([*git, "archive", commit])
        with tempfile.TemporaryDirectory() as tree:
            subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
            known |= results_of(tree, data_dir, missing)
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known))
    for result in filter(None, known.values()):  # cached ones may be of an older version
        result["metrics.jsonl"] = [renamed(record) for record in result["metrics.jsonl"]]
    return known


def differences(expected, now):
    """A line for each difference."""
    if expected is None or now is None:
        return ["a run did not finish"]
    lines = [
        f"{name} differs"
        for name in expected
        if name != "metrics.jsonl" and now.get(name) != expected[name]
    ]
    records, records_now = expected["metrics.jsonl"], now["metrics.jsonl"]
    if len(records) != len(records_now):
        return [*lines, f"metrics.jsonl has {len(records_now)} lines, not {len(records)}"]
    for line, (old, new) in enumerate(zip(records, records_now, strict=True), start=1):
        for field in old:
            if new.get(field) != old[field]:
                lines.append(f"line {line}: {field} was {old[field]}, now {new.get(field)}")
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("revision", help="the commit to compare the working tree with")
    parser.add_argument("--data_dir", default=os.environ.get("CIFAR10_DIR", "data"))
    parser.add_argument("--only", default="", help="words that every combination contains")
    args = parser.parse_args(argv)
    words = args.only.split()
    chosen = [c for c in COMBINATIONS if set(words) <= set(map(str, c))]
    data_dir = Path(args.data_dir).resolve()
    expected = expected_of(args.revision, data_dir, chosen)
    now = results_of(ROOT, data_dir, chosen)
    bad = 0
    for combination in chosen:
        name = " ".join(map(str, combination))
        lines = differences(expected[name], now[name])
        bad += bool(lines)
        print(f"{name}: {'; '.join(lines) or 'equal'}")
    print(f"{len(chosen) - bad} of {len(chosen)} equal")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
