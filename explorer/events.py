"""How the page's events are run: options of gradio's listeners."""

QUICK = {"show_progress": "hidden", "api_visibility": "private"}
# One at a time, whoever asks; of the moves made meanwhile the last one counts.
COMPUTING = QUICK | {
    "trigger_mode": "always_last",
    "concurrency_limit": 1,
    "concurrency_id": "computing",
}
# What takes seconds and shows itself on the way: beside the quick moves, one at a time too.
CLIMBING = COMPUTING | {"concurrency_id": "climbing"}
