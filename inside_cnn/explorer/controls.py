"""Sliders and numbers that any state of the page, or of its address, leaves with a value."""

import gradio as gr


def slider(low, high, value, step, label):
    """A gradio slider; what is sent is brought to the nearest step, an empty box to `value`.

    high: at least low.
    """
    part = gr.Slider(low, max(high, low + step), value, step=step, label=label, buttons=[])

    def read(sent):
        if sent is None:
            return value
        steps = round((min(max(sent, low), high) - low) / step)
        return min(low + steps * step, high)

    part.preprocess = read
    return part


def whole_number(value, high, label):
    """A gradio box for a whole number from 0 to `high`; an empty one stands for `value`."""
    part = gr.Number(value, label=label, precision=0, minimum=0, maximum=high)
    part.preprocess = lambda sent: value if sent is None else min(max(int(sent), 0), high)
    return part
