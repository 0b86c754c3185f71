"""The fourth tab: which features answer to an image, and what those are."""

import gradio as gr

from data_tools import to_uint8
from discriminator import NUM_LAYERS
from explorer import pieces
from explorer.chooser import Chooser
from explorer.events import CLIMBING, COMPUTING, QUICK
from explorer.inside import lit, strongest_features
from explorer.maximise import Goal, climb
from interpretability.receptive_field import box

INTRODUCTION = (
    "Choose an image and a layer: which features answer to it as to few others, and where in it? "
    "Click on one to see what it sees there, what excites it most, and the test images that do."
)


class InsideTab:
    """Its components, and what they do; `controls` as in MisleadTab."""

    def __init__(self, session, examples):
        self.session, self.examples = session, examples
        gr.Markdown(INTRODUCTION)
        self.picked = gr.Textbox("", visible="hidden")
        self.grids = {}
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.chooser = Chooser(session)
            with gr.Column(scale=3, min_width=300):
                self.layer = gr.Slider(1, NUM_LAYERS, 4, step=1, label="layer", buttons=[])
                for network in session.networks:
                    gr.HTML(
                        pieces.heading(network.name, pieces.WORDS[network.name]),
                        apply_default_css=False,
                    )
                    self.grids[network.name] = gr.HTML(
                        js_on_load=pieces.CHOOSE, apply_default_css=False
                    )
                self.told = gr.HTML(apply_default_css=False)
        self.controls = {
            "image": self.chooser.name,
            "layer": self.layer,
            "feature": self.picked,
        }

    def wire(self, opened):
        self.chooser.wire(opened)
        inputs = [self.chooser.name, self.layer, self.chooser.uploaded]
        changes = [self.chooser.name.change, self.layer.change]
        grids = [*self.grids.values()]
        gr.on([opened, *changes], self.show, inputs, grids, **COMPUTING)
        for name, grid in self.grids.items():
            grid.select(self.pick(name), inputs, [self.picked], **QUICK)
        told = CLIMBING | {"show_progress": "full"}
        gr.on(
            [opened, self.picked.change, *changes],
            self.show_feature,
            [self.picked, *inputs],
            [self.told],
            **told,
        )

    def show(self, name, layer, uploaded):
        """What is shown of each network."""
        found = self.chooser.find(name, uploaded)
        if found is None:
            return [pieces.note("Choose an image, or upload one.")] * len(self.grids)
        return [
            pieces.choices(
                [
                    (
                        lit(found[0], fired.activations),
                        f"feature {fired.feature}",
                        [
                            (pieces.WORDS[network.name], f"feature {fired.feature}"),
                            (pieces.WORDS[network.name], told_of(fired)),
                        ],
                    )
                    for fired in strongest_features(self.session, network, found[0], layer)
                ]
            )
            for network in self.session.networks
        ]

    def pick(self, network_name):
        """The handler of a click in a network's grid: what is picked, as a text."""

        def picked(name, layer, uploaded, event: gr.EventData):
            found = self.chooser.find(name, uploaded)
            network = self.session.network(network_name)
            fired = strongest_features(self.session, network, found[0], layer)[event.index]
            return f"{network_name}: {fired.feature}"

        return picked

    def show_feature(self, picked, name, layer, uploaded, progress=gr.Progress()):  # noqa: B008
        """The feature at the place where it fired, its climbed image, the test images."""
        network_name, _, number = picked.partition(": ")
        found = self.chooser.find(name, uploaded)
        if network_name not in self.grids or not number.isdecimal() or found is None:
            yield ""
            return
        network = self.session.network(network_name)
        goal = Goal(int(number) % network.model.width, layer)
        width = network.model.width
        every = strongest_features(self.session, network, found[0], layer, count=width)
        fired = next(one for one in every if one.feature == goal.number)
        frame = box(layer, fired.row, fired.column)
        sees = (found[0].cpu(), f"what it sees: {told_of(fired)}", "image.png", frame)
        head = pieces.heading(
            network_name, f"{pieces.WORDS[network_name]}: layer {layer}, feature {goal.number}"
        )
        yield head + pieces.figures([sees])
        for images in climb(network, goal, "robust", self.session.precision):
            climbed = images
        best = to_uint8(goal.shown(climbed, robust=True)).cpu()[0]
        shown = head + pieces.figures([sees, (best, "what excites it most", "maximised.png")])
        yield shown
        if self.session.images is not None:
            words = pieces.WORDS[network_name]
            yield shown + self.examples.figures(
                network, goal, lambda share: progress(share, desc=words, unit="batches")
            )


def told_of(fired):
    """How strongly a feature answers, in words."""
    if fired.unusual is None:
        return f"activation {fired.value:.1f}"
    return f"{fired.unusual:.1f} deviations above its mean"
