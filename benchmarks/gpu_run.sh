#!/usr/bin/env bash
# On a machine with a GPU: the tests marked gpu, the speed of the GAN, and a training of as many
# epochs as fit into the rest of $MINUTES, so that the learning rate ends at 0.
#
#   benchmarks/gpu_run.sh output/gpu_run
#   MINUTES=3 FLAGS="--dataset shapes --width 8 --limit_train 2000" benchmarks/gpu_run.sh /tmp/run
set -euo pipefail
cd "$(dirname "$0")/.."

OUT="${1:-output/gpu_run}"
MINUTES="${MINUTES:-9}"
RECIPE="${RECIPE:---recipe relativistic --ema_decay 0.9995}"
FLAGS="${FLAGS:-}"
PYTHON="${PYTHON:-python}"
END=$((SECONDS + 60 * MINUTES))
mkdir -p "$OUT"

train() { # folder, flags
    # shellcheck disable=SC2086  # lists of flags
    "$PYTHON" train_gan.py $RECIPE $FLAGS --output_dir "$@"
}

# A failing test is reported, and does not end the run.
timeout 90 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider >"$OUT/tests.txt" 2>&1 ||
    echo "the tests on the GPU ended with code $?: see $OUT/tests.txt"
tail -n 1 "$OUT/tests.txt"

# Speed, after compilation: the last record of a short run. The run also shows the time to start.
STARTED=$SECONDS
train "$OUT/speed" --epochs 10000 --max_minutes 0.7 --log_every_steps 50 >"$OUT/speed.txt" 2>&1
EPOCHS=$("$PYTHON" - "$OUT/speed" $((SECONDS - STARTED - 42)) $((END - SECONDS)) <<'EOF'
import json, pathlib, sys

folder, start, left = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
settings = json.loads((folder / "config.json").read_bytes())["settings"]
last = json.loads((folder / "metrics.jsonl").read_bytes().splitlines()[-1])
per_epoch = last["step"] * settings["batch_size"] / last["epochs_done"]
seconds = 0.85 * (left - max(0, start))  # the rest is for evaluation, saving and figures
epochs = int(seconds * last["images_per_second"] / per_epoch)
print(f"{last['images_per_second']:,.0f} images/s: {epochs} epochs", file=sys.stderr)
print(max(1, epochs))
EOF
)

LEFT=$(((END - SECONDS) / 60)).$(((END - SECONDS) % 60 * 10 / 60)) # minutes
train "$OUT/gan" --epochs "$EPOCHS" --max_minutes "$LEFT" --save_every_epochs 5 \
    2>&1 | tee "$OUT/gan.txt" | tail -n 3
rm -rf "$OUT/gan/checkpoints" "$OUT/speed/checkpoints"
find "$OUT" -type f -size +16M -print -delete # too large to be returned
echo "$OUT: $((SECONDS / 60)) min $((SECONDS % 60)) s in all"
