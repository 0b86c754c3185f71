"""The first tab: choose an image, turn up a perturbation, see whom it fools."""

import gradio as gr
import torch

from explorer import pieces
from explorer.drawing import Drawing, draw
from explorer.events import COMPUTING, QUICK
from explorer.mislead import enlarged, mislead
from explorer.pieces import WORDS
from image_sets.dataset import DataError
from image_sets.pictures import MAX_BYTES, read_picture

ATTACKS = {"noise": "noise", "step": "one step", "pgd": "20 steps (PGD)"}
GALLERY = 20  # images of a class to choose from
INTRODUCTION = (
    "Choose an image and turn up epsilon, the largest change of a pixel, until a network names it "
    "wrongly. Both networks have the same eight layers: does what fools the one fool the other?"
)
LEVELS = 16.0  # the largest epsilon


class MisleadTab:
    """Its components, and what they do.

    `controls`: {name in the page's address: component}, which together are the tab's state but for
    an uploaded picture.
    """

    def __init__(self, session):
        self.session = session
        names = session.class_names
        choices = [(name, k) for k, name in enumerate(names)]
        gr.Markdown(INTRODUCTION)
        self.uploaded = gr.State(None)
        self.image = gr.Textbox(self.first_image(), visible="hidden")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.shown_class = gr.Dropdown(choices, value=0, label=self.source())
                self.gallery = gr.HTML(js_on_load=pieces.CHOOSE, apply_default_css=False)
                self.upload = gr.UploadButton(
                    f"your own image (at most {MAX_BYTES // 1_000_000} MB)",
                    type="binary",
                    file_types=["image"],
                    size="sm",
                )
                self.message = gr.HTML(apply_default_css=False)
                attacks = [(words, name) for name, words in ATTACKS.items()]
                self.attack = gr.Radio(attacks, value="step", label="perturb by")
                networks = [(WORDS[n.name], n.name) for n in session.networks]
                self.aimed_at = gr.Radio(
                    networks, value=networks[0][1], label="with the gradients of the"
                )
                aims = [("away from its class", "away"), ("toward another class", "toward")]
                self.aim = gr.Radio(aims, value="away", label="where to")
                self.target = gr.Dropdown(choices, value=1 % len(names), label="the other class")
            with gr.Column(scale=3, min_width=300):
                self.epsilon = gr.Slider(
                    0, LEVELS, 0, step=0.5, label="epsilon, levels of 255", buttons=[]
                )
                self.pictures = gr.HTML(apply_default_css=False)
                self.verdicts = gr.HTML(apply_default_css=False)
        self.controls = {
            "image": self.image,
            "epsilon": self.epsilon,
            "how": self.attack,
            "aim": self.aim,
            "target": self.target,
            "aimed_at": self.aimed_at,
        }

    def source(self):
        if self.session.images is None:
            return "no images but your own; class"
        return "images that the generator drew" if self.session.are_drawn else "test images"

    def first_image(self):
        return "" if self.session.images is None else f"listed {self.listed(0)[0]}"

    def wire(self, opened):
        """Connect the components. opened: the event at which the tab first shows something."""
        gr.on(
            [opened, self.shown_class.change],
            self.fill_gallery,
            [self.shown_class],
            [self.gallery],
            **QUICK,
        )
        self.gallery.select(self.choose, [self.shown_class], [self.image], **QUICK)
        self.upload.upload(
            self.take, [self.upload], [self.uploaded, self.image, self.message], **QUICK
        )
        inputs = [*self.controls.values(), self.uploaded]
        outputs = [self.pictures, self.verdicts]
        changes = [component.change for component in self.controls.values()]
        gr.on([opened, *changes], self.show, inputs, outputs, **COMPUTING)

    def listed(self, label):
        """Indices of the images to choose from."""
        labels = self.session.images.labels
        return torch.nonzero(labels == label)[:GALLERY, 0].tolist()

    def fill_gallery(self, label):
        if self.session.images is None:
            return ""
        name = self.session.class_names[label]
        images = self.session.images.images[self.listed(label)].cpu()
        return pieces.choices([(image, f"{name} {i + 1}", []) for i, image in enumerate(images)])

    def choose(self, label, event: gr.EventData):
        return f"listed {self.listed(label)[event.index]}"

    def take(self, data):
        """(the uploaded image, its name, a message)."""
        try:
            image = read_picture(data)
        except DataError as error:
            return gr.skip(), gr.skip(), pieces.note(f"not taken: {error}")
        return image, f"uploaded {hash(data) & 0xFFFFFF:06x}", ""

    def find(self, name, uploaded):
        """(uint8 (3, 32, 32), class or None) by the text that names an image; None without one."""
        kind, _, rest = name.partition(" ")
        if kind == "uploaded" and uploaded is not None:
            return uploaded, None
        images = self.session.images
        if kind == "listed" and images is not None and rest.isdecimal() and int(rest) < len(images):
            return images.images[int(rest)], int(images.labels[int(rest)])
        if kind == "drawn" and self.session.generator is not None:
            drawing = Drawing.from_text(rest, len(self.session.class_names))
            if drawing is not None:
                return draw(self.session, [drawing])[0], None
        return None

    def show(self, name, epsilon, attack, aim, target, aimed_at, uploaded):
        found = self.find(name, uploaded)
        if found is None:
            return pieces.note("Choose an image, or upload one."), ""
        image, label = found
        misled = mislead(
            self.session,
            image,
            label,
            epsilon=min(max(epsilon, 0), LEVELS),
            attack=attack,
            targeted=aim == "toward",
            target=target,
            aimed_at=aimed_at,
        )
        change, factor = enlarged(misled)
        shown = misled.perturbed.round().to(torch.uint8)
        words = f"the perturbation, {factor:.0f} times enlarged" if epsilon else "no perturbation"
        own = "the image" if label is None else f"the image: {self.session.class_names[label]}"
        items = [
            (misled.image, own, "image.png"),
            (change, words, "perturbation.png"),
            (shown, f"perturbed, at most {epsilon:g} levels", "perturbed.png"),
        ]
        verdicts = pieces.verdicts(
            misled.said_after, self.session.class_names, before=misled.said_before
        )
        return pieces.figures(items), verdicts
