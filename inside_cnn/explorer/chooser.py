"""The part of a tab where an image is chosen: from the set, by upload, or sent by another tab."""

import gradio as gr
import torch

from inside_cnn.core.errors import UserError
from inside_cnn.data.pictures import MAX_UPLOAD_BYTES, read_picture
from inside_cnn.explorer import pieces
from inside_cnn.explorer.drawing import Drawing, draw
from inside_cnn.explorer.events import QUICK

SHOWN = 20  # images of a class to choose from


class Chooser:
    """Components, and the image that they stand for.

    name: a text that names the chosen image; uploaded: the visitor's own, which no text can bring
    back.
    """

    def __init__(self, session):
        self.session = session
        choices = [(name, k) for k, name in enumerate(session.class_names)]
        self.uploaded = gr.State(None)
        self.name = gr.Textbox(self.first(), visible="hidden")
        self.label = gr.Dropdown(choices, value=0, label=self.source())
        self.grid = gr.HTML(js_on_load=pieces.CHOOSE, apply_default_css=False)
        self.upload = gr.UploadButton(
            f"your own image (at most {MAX_UPLOAD_BYTES // 1_000_000} MB)",
            type="binary",
            file_types=["image"],
            size="sm",
        )
        self.message = gr.HTML(apply_default_css=False)

    def source(self):
        if self.session.images is None:
            return "no images but your own; class"
        return "images that the generator drew" if self.session.are_drawn else "test images"

    def first(self):
        return "" if self.session.images is None else f"listed {self.listed(0)[0]}"

    def wire(self, opened):
        gr.on([opened, self.label.change], self.fill, [self.label], [self.grid], **QUICK)
        self.grid.select(chosen, None, [self.name], **QUICK)
        self.upload.upload(
            self.take, [self.upload], [self.uploaded, self.name, self.message], **QUICK
        )

    def listed(self, label):
        """Indices of the images to choose from."""
        return torch.nonzero(self.session.images.labels == label)[:SHOWN, 0].tolist()

    def fill(self, label):
        if self.session.images is None:
            return ""
        name, images = self.session.class_names[label], self.session.images.images
        return pieces.choices(
            [
                (images[index].cpu(), f"listed {index}", f"{name} {place}", [])
                for place, index in enumerate(self.listed(label), start=1)
            ]
        )

    def take(self, data):
        """(the uploaded image, a name of its own, a message)."""
        try:
            image = read_picture(data)
        except UserError as error:
            return gr.skip(), gr.skip(), pieces.note(f"not taken: {error}")
        return image, f"uploaded {hash(data) & 0xFFFFFF:06x}", ""

    def find(self, name, uploaded):
        """(uint8 (3, 32, 32), class or None) by its name; None where it names none."""
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


def chosen(event: gr.EventData):
    """The value of the picture that was clicked."""
    return event.value
