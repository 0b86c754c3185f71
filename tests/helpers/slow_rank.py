"""Started by torchrun: rank 0 acts for longer than the ranks wait for each other."""

import datetime
import time

from torch.distributed.distributed_c10d import _set_pg_timeout

from inside_cnn.training.distributed import Ranks

WAIT, ACTION = 5, 7  # seconds


def main():
    with Ranks() as ranks:
        ranks.from_main(lambda: None)  # both are here
        _set_pg_timeout(datetime.timedelta(seconds=WAIT))
        ended = ranks.main_first(lambda: time.sleep(ACTION * ranks.main) or time.monotonic())
        of_main = ranks.from_main(lambda: ended)
        assert ranks.main or ended > of_main


if __name__ == "__main__":
    main()
