"""The second tab: what the generator draws, and what both networks say of it."""

import gradio as gr

from inside_cnn.explorer import pieces
from inside_cnn.explorer.controls import slider, whole_number
from inside_cnn.explorer.drawing import LAST_NUMBER, Drawing, draw
from inside_cnn.explorer.events import COMPUTING, QUICK

INTRODUCTION = (
    "Draw a class, or mix several; the number picks one of its images. Then walk to another image, "
    "through what lies between. Under each picture: the critic's score and what both networks say."
)


class DrawingTab:
    """Its components, and what they do; `controls` as in MisleadTab."""

    def __init__(self, session):
        self.session = session
        names = session.class_names
        choices = [(name, k) for k, name in enumerate(names)]
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                with gr.Row():
                    self.label = gr.Dropdown(choices, value=0, label="class")
                    self.seed = whole_number(0, 2**31 - 1, "seed")
                self.number = slider(0, LAST_NUMBER, 0, 1, "number")
                with gr.Accordion("a mixture of classes", open=False):
                    gr.Markdown("In percent; with all at 0 it is the class above.")
                    self.shares = [slider(0, 100, 0, 5, name) for name in names]
                with gr.Row():
                    self.other_label = gr.Dropdown(
                        choices, value=1 % len(names), label="walk to the class"
                    )
                    self.other_number = slider(0, LAST_NUMBER, 0, 1, "and its number")
                self.way = slider(0, 1, 0, 0.01, "how far along the way")
                self.picture = gr.HTML(apply_default_css=False)
                with gr.Row():
                    self.send = {
                        "mislead": gr.Button("mislead this one", size="sm"),
                        "look_inside": gr.Button("look inside it", size="sm"),
                    }
                self.verdicts = gr.HTML(apply_default_css=False)
            with gr.Column(scale=3, min_width=300):
                kinds = [("the next numbers", "numbers"), ("the way in sixteen steps", "way")]
                self.kind = gr.Radio(kinds, value="numbers", label="sixteen of")
                self.grid = gr.HTML(js_on_load=pieces.CHOOSE, apply_default_css=False)
        self.controls = {
            "class": self.label,
            "seed": self.seed,
            "number": self.number,
            "to": self.other_label,
            "to_number": self.other_number,
            "way": self.way,
            "sixteen": self.kind,
            **{f"share_{k}": share for k, share in enumerate(self.shares)},
        }
        self.inputs = [
            *(self.seed, self.label, self.number, self.other_label, self.other_number, self.way),
            *self.shares,
        ]

    def wire(self, opened):
        one = [part.change for part in self.inputs]
        gr.on(
            [opened, *one],
            self.show,
            self.inputs,
            [self.picture, self.verdicts],
            **COMPUTING,
        )
        gr.on(
            [opened, self.kind.change, *one],
            self.show_sixteen,
            [self.kind, *self.inputs],
            [self.grid],
            **COMPUTING,
        )
        self.grid.select(self.choose, None, [self.number, self.way], **QUICK)

    def drawing(self, seed, label, number, other_label, other_number, way, *shares):
        return Drawing(seed, label, number, tuple(shares), other_label, other_number, way)

    def show(self, *inputs):
        drawing = self.drawing(*inputs)
        (image,) = draw(self.session, [drawing])
        said = self.session.judge_one(image.float().to(self.session.device))
        picture = pieces.figures([(image, "drawn by the generator", "drawn.png")])
        return picture, pieces.verdicts(said, self.session.class_names)

    def show_sixteen(self, kind, *inputs):
        drawings = self.drawing(*inputs).sixteen(along_the_way=kind == "way")
        images = draw(self.session, drawings)
        said = self.session.judge(images.float().to(self.session.device))
        items = []
        for index, image in enumerate(images):
            lines = [
                (pieces.WORDS[name], pieces.verdict(shares[index], self.session.class_names))
                for name, (_, shares) in said.items()
            ]
            lines += [
                (pieces.WORDS[name], f"score {scores[index]:.1f}")
                for name, (scores, _) in said.items()
                if name in pieces.SCORING
            ]
            value = f"{drawings[index].number} {drawings[index].way}"
            items.append((image, value, f"picture {index + 1}", lines))
        return pieces.choices(items)

    def choose(self, event: gr.EventData):
        """(number, way) of the picture that was clicked."""
        number, way = event.value.split()
        return int(number), float(way)
