"""The fourth tab: which features answer to an image, and what those are."""

import gradio as gr

from data_tools import to_uint8
from discriminator import NUM_LAYERS
from inside_cnn.explorer import pieces
from inside_cnn.explorer.chooser import Chooser, chosen
from inside_cnn.explorer.controls import slider
from inside_cnn.explorer.events import CLIMBING, COMPUTING, QUICK
from inside_cnn.explorer.inside import lit, strongest_features
from inside_cnn.explorer.maximise import Goal, climb
from inside_cnn.explorer.maximise_tab import Choice
from inside_cnn.interpretability.receptive_field import box

INTRODUCTION = (
    "Choose an image and a layer: which features answer to it as to few others, and where in it? "
    "Click on one to see what it sees there, what excites it most, and the images that do."
)


class InsideTab:
    """Its components, and what they do; `controls` as in MisleadTab."""

    def __init__(self, session, examples):
        self.session, self.examples = session, examples
        gr.Markdown(INTRODUCTION)
        self.choice = gr.State(Choice())
        self.picked = gr.Textbox("", visible="hidden")
        self.grids = {}
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.chooser = Chooser(session)
            with gr.Column(scale=3, min_width=300):
                self.layer = slider(1, NUM_LAYERS, 4, 1, "layer")
                for network in session.networks:
                    gr.HTML(
                        pieces.heading(network.name, pieces.WORDS[network.name]),
                        apply_default_css=False,
                    )
                    self.grids[network.name] = gr.HTML(
                        js_on_load=pieces.CHOOSE, apply_default_css=False
                    )
                self.answer = gr.HTML(apply_default_css=False)
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
        for grid in grids:
            grid.select(chosen, None, [self.picked], **QUICK)
        # What is no longer wanted is given up first: both take turns.
        for event in (opened, self.picked.change, *changes):
            event(self.forget, [self.choice], None, **QUICK).then(
                self.show_feature,
                [self.choice, self.picked, *inputs],
                [self.answer],
                **CLIMBING | {"show_progress": "full"},
            )

    def forget(self, choice):
        """What was begun for an earlier choice is given up."""
        choice.revision += 1

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
                        f"{network.name}: {fired.feature}",
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

    def show_feature(self, choice, picked, name, layer, uploaded, progress=gr.Progress()):  # noqa: B008
        """The feature at the place where it fired, its climbed image, the test images."""
        begun = choice.revision
        network_name, _, number = picked.partition(": ")
        found = self.chooser.find(name, uploaded)
        network = self.session.network(network_name)
        width = network.width
        known = network_name in self.grids and number.isdecimal() and int(number) < width
        if not known or found is None:
            yield ""
            return
        goal = Goal(int(number), layer)
        every = strongest_features(self.session, network, found[0], layer, count=width)
        fired = next(one for one in every if one.feature == goal.number)
        frame = box(layer, fired.row, fired.column)
        sees = (found[0].cpu(), f"what it sees: {told_of(fired)}", "image.png", frame)
        head = pieces.heading(
            network_name, f"{pieces.WORDS[network_name]}: layer {layer}, feature {goal.number}"
        )
        yield head + pieces.figures([sees])
        best = None
        for images in climb(network, goal, "robust", self.session.precision):
            if choice.revision != begun:
                return
            best = images
        best = to_uint8(goal.shown(best, robust=True)).cpu()[0]
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
    return f"{fired.unusual:.1f} std above its mean"
