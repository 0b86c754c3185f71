"""How the page's events are run: options of gradio's listeners.

Of the moves made while one is answered the last one counts.
"""

QUICK = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
# One at a time, whoever asks.
COMPUTING = QUICK | {"concurrency_limit": 1, "concurrency_id": "computing"}
# What takes seconds, beside what does not.
COUNTING = QUICK | {"concurrency_limit": 1, "concurrency_id": "counting"}
CLIMBING = QUICK | {"concurrency_limit": 1, "concurrency_id": "climbing"}
