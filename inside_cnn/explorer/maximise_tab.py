"""The third tab: climb an image until it excites a class or a feature."""

import itertools
import time

import gradio as gr

from data_tools import to_uint8
from discriminator import NUM_LAYERS
from inside_cnn.explorer import pieces
from inside_cnn.explorer.controls import slider
from inside_cnn.explorer.events import CLIMBING, QUICK
from inside_cnn.explorer.maximise import STEPS, Goal, climb, goals_of_both

INTRODUCTION = (
    "Begin with grey and climb until a class, or a feature of a layer, answers most: what is it "
    "that the network looks for? Beside it, what answers to it in the other network."
)
FRAME_SECONDS = 0.4  # between the pictures of a climb


class MaximiseTab:
    """Its components, and what they do; `controls` as in MisleadTab."""

    def __init__(self, session, examples):
        self.session, self.examples = session, examples
        choices = [(name, k) for k, name in enumerate(session.class_names)]
        width = min(network.width for network in session.networks)
        gr.Markdown(INTRODUCTION)
        self.choice = gr.State(Choice())
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                kinds = [("a class", "class"), ("a feature of a layer", "feature")]
                self.kind = gr.Radio(kinds, value="class", label="what")
                self.label = gr.Dropdown(choices, value=0, label="class")
                self.layer = slider(1, NUM_LAYERS, 4, 1, "layer")
                self.feature = slider(0, width - 1, 0, 1, "feature")
                networks = [(pieces.WORDS[n.name], n.name) for n in session.networks]
                self.network = gr.Radio(networks, value=networks[0][1], label="of the")
                methods = [("robust: through random views", "robust"), ("classic", "classic")]
                self.method = gr.Radio(methods, value="robust", label="how")
                self.start = gr.Button("climb", variant="primary")
                self.ask = gr.Button("the images that excite it most", size="sm")
            with gr.Column(scale=3, min_width=300):
                self.pictures = gr.HTML(apply_default_css=False)
                self.answers = gr.HTML(apply_default_css=False)
        self.controls = {
            "what": self.kind,
            "class": self.label,
            "layer": self.layer,
            "feature": self.feature,
            "network": self.network,
            "how": self.method,
        }

    def wire(self, opened):
        inputs = [self.network, self.kind, self.label, self.layer, self.feature]
        gr.on(
            [opened, self.start.click],
            self.show,
            [self.choice, *inputs, self.method],
            [self.pictures, self.answers],
            **CLIMBING,
        )
        with_bar = CLIMBING | {"show_progress": "full"}
        self.ask.click(self.show_examples, inputs, [self.answers], **with_bar)
        changes = [part.change for part in self.controls.values()]
        gr.on(changes, self.forget, [self.choice], [self.answers], **QUICK)

    def forget(self, choice):
        """Of an earlier choice the climb is given up, and what it was answered with goes."""
        choice.revision += 1
        return pieces.note("Press climb to see it.")

    def goals(self, name, kind, label, layer, feature):
        network = self.session.network(name)
        goal = Goal(label) if kind == "class" else Goal(feature, layer)
        return goals_of_both(self.session, network.name, goal)

    def words(self, name, goal, found):
        what = (
            self.session.class_names[goal.number]
            if goal.layer is None
            else f"layer {goal.layer}, feature {goal.number}"
        )
        return f"{pieces.WORDS[name]}: {what}" + (f" ({found})" if found else "")

    def show(self, choice, name, kind, label, layer, feature, method):
        begun = choice.revision
        goals = self.goals(name, kind, label, layer, feature)
        robust = method == "robust"
        climbs = {
            other: climb(self.session.network(other), goal, method, self.session.precision)
            for other, (goal, _) in goals.items()
        }
        last_frame = 0.0
        for step, images in enumerate(itertools.zip_longest(*climbs.values())):
            last = step >= STEPS + robust
            if choice.revision != begun:
                return
            if not last and time.monotonic() - last_frame < FRAME_SECONDS:
                continue
            last_frame = time.monotonic()
            parts = []
            for (other, (goal, found)), climbed in zip(goals.items(), images, strict=True):
                shown = to_uint8(goal.shown(climbed, robust)).cpu()
                words = "the best of its starts" if last and robust else f"step {min(step, STEPS)}"
                parts.append(pieces.heading(other, self.words(other, goal, found)))
                parts.append(pieces.figures([(image, words, "maximised.png") for image in shown]))
            yield "".join(parts), "" if step == 0 else gr.skip()

    def show_examples(self, *inputs, progress=gr.Progress()):  # noqa: B008 (how gradio is told)
        if self.session.images is None:
            return pieces.note("There are no images on this machine.")
        parts = []
        for name, (goal, found) in self.goals(*inputs).items():
            words = self.words(name, goal, found)
            parts.append(pieces.heading(name, words))
            parts.append(
                self.examples.figures(
                    self.session.network(name),
                    goal,
                    lambda share, words=words: progress(share, desc=words, unit="batches"),
                )
            )
        return "".join(parts)


class Choice:
    """How often a visitor has chosen anew; what was begun for an earlier choice is not wanted."""

    def __init__(self):
        self.revision = 0
