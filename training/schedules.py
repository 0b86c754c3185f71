"""Learning rates over the course of a training, as factors of the largest one."""


def triangle(step, total_steps, peak):
    """Factor of the learning rate at `step` (from 0): up from 0 to 1 in a straight line, then down.

    peak: share of the steps after which it is 1.
    """
    done = (step + 0.5) / total_steps
    return min(done / peak if peak else 1, (1 - done) / (1 - peak))


def drops(epoch, drop_epochs):
    """Factor of the learning rate in `epoch` (from 0): a tenth for each of drop_epochs reached."""
    return 0.1 ** sum(epoch >= drop for drop in drop_epochs)
