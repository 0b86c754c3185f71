"""The page: its tabs, its looks, and the address that brings a state back."""

import json
from functools import partial
from pathlib import Path

import gradio as gr

from inside_cnn.explorer.drawing_tab import DrawingTab
from inside_cnn.explorer.events import QUICK
from inside_cnn.explorer.examples import Examples
from inside_cnn.explorer.inside_tab import InsideTab
from inside_cnn.explorer.maximise_tab import MaximiseTab
from inside_cnn.explorer.mislead_tab import MisleadTab
from inside_cnn.explorer.switch_off_tab import SwitchOffTab

TITLE = "What does a convolutional network learn?"
ABOUT = (
    "Two networks of the same eight layers, trained on the same images: a **classifier**, and the "
    "**critic** of a GAN. The page's address holds what you see: keep it, and you have it back."
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def build(session, cache):
    """The gradio page of a Session, to be launched. cache: a folder for what takes long."""
    examples = Examples(session, cache)
    makers = {
        "Mislead": MisleadTab,
        "Draw": DrawingTab,
        "Maximise": partial(MaximiseTab, examples=examples),
        "Look inside": partial(InsideTab, examples=examples),
        "Switch off": SwitchOffTab,
    }
    if session.generator is None:
        del makers["Draw"]
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {TITLE}\n\n{ABOUT}")
        tabs, opened = {}, {}
        with gr.Tabs(overflow_behavior="wrap") as frame:
            for words, make in makers.items():
                name = words.lower().replace(" ", "_")
                with gr.Tab(words, id=name) as opened[name]:
                    tabs[name] = make(session)
        keep_in_the_address(blocks, frame, tabs, opened)
        for name, tab in tabs.items():
            tab.wire(blocks.load if name == "mislead" else opened[name].select)
        if "draw" in tabs:
            for name, button in tabs["draw"].send.items():
                send_to(tabs["draw"], button, name, tabs[name].chooser, frame)
    return blocks


def send_to(drawing, button, name, chooser, frame):
    """Have a button hand the drawn image to the tab of this name, and open that."""
    button.click(
        lambda *inputs: ("drawn " + drawing.drawing(*inputs).to_text(), gr.Tabs(selected=name)),
        drawing.inputs,
        [chooser.name, frame],
        **QUICK,
    )


# Runs in the browser: the values of a tab's controls become its part of the address.
_KEEP = """(...values) => {
  const names = %s;
  const address = new URL(location.href);
  names.forEach((name, i) => address.searchParams.set(name, values[i]));
  history.replaceState(null, "", address);
}"""
# The page's own first tab is opened before the address has been read: that is no visitor's choice.
_OPENED = """() => {
  if (!window.firstTabIsOpen) { window.firstTabIsOpen = true; return; }
  const address = new URL(location.href);
  address.searchParams.set("tab", %s);
  history.replaceState(null, "", address);
}"""


def keep_in_the_address(blocks, frame, tabs, opened):
    """Write every change into the page's address, and open the page as its address says."""
    controls = {}
    for tab_name, tab in tabs.items():
        own = {f"{tab_name}.{name}": part for name, part in tab.controls.items()}
        changes = [part.change for part in own.values()]
        gr.on(changes, None, [*own.values()], None, js=_KEEP % json.dumps(list(own)), queue=False)
        opened[tab_name].select(None, None, None, js=_OPENED % json.dumps(tab_name), queue=False)
        controls |= own

    def restore(request: gr.Request):
        asked = dict(request.query_params)
        return [value_of(part, asked.get(name)) for name, part in controls.items()]

    def open_tab(request: gr.Request):
        tab = request.query_params.get("tab")
        return gr.Tabs(selected=tab) if tab in tabs else gr.skip()

    # A tab is opened once the page stands: earlier it would be ignored.
    restored = blocks.load(restore, None, [*controls.values()], **QUICK)
    restored.then(open_tab, None, frame, **QUICK)


def value_of(part, text):
    """What a text out of an address sets a component to; gr.skip() where it cannot."""
    if text is None:
        return gr.skip()
    if isinstance(part, gr.Slider | gr.Number):
        try:
            number = float(text)
        except ValueError:
            return gr.skip()
        if not part.minimum <= number <= part.maximum:
            return gr.skip()
        return int(number) if number.is_integer() else number
    if isinstance(part, gr.Dropdown | gr.Radio):
        values = {str(value): value for _, value in part.choices}
        return values.get(text, gr.skip())
    return text[:200]
