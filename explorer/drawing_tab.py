"""The second tab: what the generator draws, and what both networks say of it."""

import gradio as gr

from explorer import pieces
from explorer.drawing import Drawing, draw
from explorer.events import COMPUTING, QUICK

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
                    self.seed = gr.Number(
                        0, label="seed", precision=0, minimum=0, maximum=2**31 - 1
                    )
                self.number = gr.Slider(0, 99, 0, step=1, label="number", buttons=[])
                with gr.Accordion("a mixture of classes", open=False):
                    gr.Markdown("In percent; with all at 0 it is the class above.")
                    self.shares = [
                        gr.Slider(0, 100, 0, step=5, label=name, buttons=[]) for name in names
                    ]
                with gr.Row():
                    self.other_label = gr.Dropdown(
                        choices, value=1 % len(names), label="walk to the class"
                    )
                    self.other_number = gr.Slider(
                        0, 99, 0, step=1, label="and its number", buttons=[]
                    )
                self.way = gr.Slider(0, 1, 0, step=0.02, label="how far along the way", buttons=[])
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
        self.grid.select(self.choose, [self.kind, self.number], [self.number, self.way], **QUICK)

    def drawing(self, seed, label, number, other_label, other_number, way, *shares):
        return Drawing(seed or 0, label, number, tuple(shares), other_label, other_number, way)

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
            items.append((image, f"picture {index + 1}", lines))
        return pieces.choices(items)

    def choose(self, kind, number, event: gr.EventData):
        if kind == "way":
            return number, event.index / 15
        return min(number + event.index, 99), gr.skip()
