"""torch.hub, from a process that has other modules of the same names."""

import re
import subprocess
import sys

import pytest
import torch

import hubconf
from generator import sample_latents
from inside_cnn.engine.weights import load_model
from processes import ENVIRONMENT, ROOT

CODE = """
import sys, types
foreign = {name: types.ModuleType(name) for name in
           ("data_tools", "discriminator", "generator", "engine")}
sys.modules.update(foreign)
import torch
repo = sys.argv[1]
critic = torch.hub.load(repo, "critic", source="local")
generator = torch.hub.load(repo, "generator", source="local")
assert all(sys.modules[name] is module for name, module in foreign.items())
del sys.modules["generator"]
torch.hub.load(repo, "classifier", source="local", pretrained=False)
assert "generator" not in sys.modules
latents = torch.zeros(1, 100)
latents[0, 3] = 1
print(critic(generator(latents))[1].argmax().item())
"""


@pytest.fixture(autouse=True)
def published():
    """results/, in place of the empty folder of other tests."""


def test_local_form_beside_foreign_modules(tmp_path):
    environment = ENVIRONMENT | {"TORCH_HOME": str(tmp_path), "PYTHONPATH": ""}
    command = [sys.executable, "-c", CODE, ROOT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["3"], done.stderr


def test_example_of_the_model_card(tmp_path):
    """results/README.md: torch.hub, captum, torch.func, ONNX."""
    page = (ROOT / "results/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    torch.manual_seed(0)  # the classifier recognizes 98 % of the samples
    exec(code.replace('"."', repr(str(ROOT))), names)
    assert names["class_logits"].argmax(1).tolist() == [3, 5]
    assert names["attributions"].shape == names["gradients"].shape == (2, 3, 32, 32)
    assert (tmp_path / "classifier.onnx").is_file()


def test_versions_agree():
    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text()


def test_networks_are_plain_and_equal_to_the_published_ones(images):
    entries = [n for n, v in vars(hubconf).items() if callable(v) and not n.startswith("_")]
    assert entries == ["classifier", "critic", "generator"]
    model = hubconf.classifier()
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    assert packages == {"torch", "discriminator"}
    assert not model.training
    expected, _ = load_model(ROOT / "results/baseline/discriminator.safetensors")
    torch.testing.assert_close(model(images)[1], expected(images)[1], rtol=1e-4, atol=1e-4)
    assert hubconf.generator(pretrained=False).training


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["classifier", "critic", "generator"])
def test_onnx_export_equals_torch(tmp_path, images, name):
    from onnx.reference import ReferenceEvaluator

    model = getattr(hubconf, name)()
    x = sample_latents(torch.arange(2)) if name == "generator" else images[:2]
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True)
    session = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    outputs = session.run(None, {session.input_names[0]: x.numpy()})
    with torch.no_grad():
        expected = [model(x)] if name == "generator" else model(x)
    for output, value in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.tensor(output), value, rtol=1e-4, atol=1e-4)
