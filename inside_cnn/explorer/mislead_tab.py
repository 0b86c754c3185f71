"""The first tab: choose an image, turn up a perturbation, see whom it fools."""

import gradio as gr

from inside_cnn.explorer import pieces
from inside_cnn.explorer.chooser import Chooser
from inside_cnn.explorer.controls import slider
from inside_cnn.explorer.events import COMPUTING
from inside_cnn.explorer.mislead import enlarged, mislead

ATTACKS = {"noise": "noise", "step": "one step", "pgd": "20 steps (PGD)"}
INTRODUCTION = (
    "Choose an image and turn up epsilon, the largest change of a pixel, until a network names it "
    "wrongly. Both networks have the same eight layers: does what fools the one fool the other?"
)
LEVELS = 16  # the largest epsilon


class MisleadTab:
    """Its components, and what they do.

    `controls`: {name in the page's address: component}, which together are the tab's state but for
    an uploaded picture.
    """

    def __init__(self, session):
        self.session = session
        names = session.class_names
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.chooser = Chooser(session)
                attacks = [(words, name) for name, words in ATTACKS.items()]
                self.attack = gr.Radio(attacks, value="step", label="perturb by")
                networks = [(pieces.WORDS[n.name], n.name) for n in session.networks]
                self.aimed_at = gr.Radio(
                    networks, value=networks[0][1], label="with the gradients of the"
                )
                aims = [("away from its class", "away"), ("toward another class", "toward")]
                self.aim = gr.Radio(aims, value="away", label="where to")
                choices = [(name, k) for k, name in enumerate(names)]
                self.target = gr.Dropdown(choices, value=1 % len(names), label="the other class")
            with gr.Column(scale=3, min_width=300):
                self.epsilon = slider(0, LEVELS, 0, 1, "epsilon, levels of 255")
                self.pictures = gr.HTML(apply_default_css=False)
                self.verdicts = gr.HTML(apply_default_css=False)
        self.controls = {
            "image": self.chooser.name,
            "epsilon": self.epsilon,
            "how": self.attack,
            "aim": self.aim,
            "target": self.target,
            "aimed_at": self.aimed_at,
        }

    def wire(self, opened):
        """Connect the components. opened: the event at which the tab first shows something."""
        self.chooser.wire(opened)
        inputs = [*self.controls.values(), self.chooser.uploaded]
        changes = [component.change for component in self.controls.values()]
        outputs = [self.pictures, self.verdicts]
        gr.on([opened, *changes], self.show, inputs, outputs, **COMPUTING)

    def show(self, name, epsilon, attack, aim, target, aimed_at, uploaded):
        found = self.chooser.find(name, uploaded)
        if found is None:
            return pieces.note("Choose an image, or upload one."), ""
        image, label = found
        misled = mislead(
            self.session,
            image,
            label,
            epsilon=epsilon,
            attack=attack,
            targeted=aim == "toward",
            target=target,
            aimed_at=aimed_at,
        )
        change, factor = enlarged(misled)
        words = f"the perturbation, {factor:.0f} times enlarged" if epsilon else "no perturbation"
        own = "the image" if label is None else f"the image: {self.session.class_names[label]}"
        items = [
            (misled.image, own, "image.png"),
            (change, words, "perturbation.png"),
            (misled.perturbed, f"perturbed, at most {epsilon} levels", "perturbed.png"),
        ]
        verdicts = pieces.verdicts(
            misled.said_after, self.session.class_names, before=misled.said_before
        )
        return pieces.figures(items), verdicts
