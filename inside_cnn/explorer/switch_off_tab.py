"""The last tab: silence features, and see what the networks still know and draw."""

import gradio as gr

from discriminator import NUM_LAYERS
from generator import UPSAMPLES
from inside_cnn.explorer import pieces
from inside_cnn.explorer.controls import slider
from inside_cnn.explorer.drawing import Drawing, draw
from inside_cnn.explorer.events import COUNTING
from inside_cnn.explorer.session import REFERENCE
from inside_cnn.explorer.switch_off import (
    IMAGES,
    NoNumbers,
    accuracies,
    drawn_without,
    favouring,
    parse_numbers,
)

INTRODUCTION = (
    "Silence the features of a layer that favour a class: does the network lose that class alone? "
    "Below, the same with the generator: what do the channels of a block paint?"
)
ROW = 8  # drawn images


class SwitchOffTab:
    """Its components, and what they do; `controls` as in MisleadTab."""

    def __init__(self, session):
        self.session, self.whole = session, {}
        choices = [(name, k) for k, name in enumerate(session.class_names)]
        width = max(network.width for network in session.networks)
        gr.Markdown(INTRODUCTION)
        self.controls = {}
        if session.images is not None:
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    networks = [(pieces.WORDS[n.name], n.name) for n in session.networks]
                    self.network = gr.Radio(networks, value=networks[0][1], label="of the")
                    self.layer = slider(1, NUM_LAYERS, NUM_LAYERS, 1, "layer")
                    self.label = gr.Dropdown(choices, value=0, label="those that favour the class")
                    self.count = slider(0, width, 0, 1, "so many of them")
                    self.also = gr.Textbox(
                        "",
                        label="and these",
                        placeholder="numbers, such as 3, 17-20",
                        max_length=200,
                    )
                with gr.Column(scale=3, min_width=300):
                    self.told = gr.HTML(apply_default_css=False)
            self.controls |= {
                "network": self.network,
                "layer": self.layer,
                "class": self.label,
                "count": self.count,
                "also": self.also,
            }
        if session.generator is not None:
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self.block = slider(1, len(UPSAMPLES), 3, 1, "block of the generator")
                    self.channels = gr.Textbox(
                        "",
                        label="without its channels",
                        placeholder=f"0 to {session.generator.width - 1}, such as 3, 0-40",
                        max_length=200,
                    )
                    self.drawn_class = gr.Dropdown(choices, value=0, label="class drawn")
                with gr.Column(scale=3, min_width=300):
                    self.drawn = gr.HTML(apply_default_css=False)
            self.controls |= {
                "block": self.block,
                "channels": self.channels,
                "drawn_class": self.drawn_class,
            }

    def wire(self, opened):
        parts = []
        if self.session.images is not None:
            inputs = [self.network, self.layer, self.label, self.count, self.also]
            parts.append((self.show_accuracy, inputs, self.told))
        if self.session.generator is not None:
            inputs = [self.block, self.channels, self.drawn_class]
            parts.append((self.show_drawn, inputs, self.drawn))
        for show, inputs, output in parts:
            changes = [part.change for part in inputs]
            gr.on([opened, *changes], show, inputs, [output], **COUNTING)

    def show_accuracy(self, name, layer, label, count, also):
        network = self.session.network(name)
        try:
            features = set(parse_numbers(also, network.width))
        except NoNumbers as error:
            return pieces.note(str(error))
        if count:
            try:
                features |= set(favouring(self.session, network, layer, label, count))
            except ValueError as error:  # a rare class
                return pieces.note(f"of the first {REFERENCE:,} images, {error}")
        if network.name not in self.whole:
            self.whole[network.name] = accuracies(self.session, network, layer, [])
        before, of_class = self.whole[network.name]
        after, without = accuracies(self.session, network, layer, sorted(features))
        kind = "drawn" if self.session.are_drawn else "test"
        images = min(IMAGES, len(self.session.images))
        words = (
            f"{len(features)} of {network.width} features of layer {layer} silenced: "
            f"{before:.1f} % → {after:.1f} % of {images:,} {kind} images are named right"
        )
        classes, shares = list(without), list(without.values())
        part = pieces.bars(network.name, words, classes, shares, list(of_class.values()))
        numbers = ", ".join(map(str, sorted(features)))
        return pieces.side_by_side([part]) + pieces.note(f"silenced: {numbers or 'none'}")

    def show_drawn(self, block, channels, label):
        try:
            silenced = parse_numbers(channels, self.session.generator.width)
        except NoNumbers as error:
            return pieces.note(str(error))
        drawings = [Drawing(label=label, number=number) for number in range(ROW)]
        whole = draw(self.session, drawings)
        without = drawn_without(self.session, drawings, block, silenced)
        rows = [("with all its channels", whole), (f"without {len(silenced)} of them", without)]
        return "".join(
            pieces.note(words) + pieces.figures([(i, "", "drawn.png") for i in images], small=True)
            for words, images in rows
        )
