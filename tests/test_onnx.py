"""ONNX export of the plain networks with the published weights."""

from pathlib import Path

import pytest
import torch

from discriminator import Discriminator
from generator import Generator, sample_latents
from inside_cnn.engine.weights import load_model

RESULTS = Path(__file__).resolve().parent.parent / "results"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "file",
    [
        "baseline/discriminator.safetensors",
        "gan/discriminator.safetensors",
        "gan/generator.safetensors",
    ],
)
def test_onnx_export_equals_torch(tmp_path, images, file):
    from onnx.reference import ReferenceEvaluator

    accelerated, _ = load_model(RESULTS / file)
    if isinstance(accelerated, Discriminator):
        model = Discriminator(accelerated.width, accelerated.num_classes)
        x = images[:2]
    else:
        model = Generator(accelerated.width, accelerated.latent_dim)
        x = sample_latents(torch.arange(2), generator=torch.manual_seed(0))
    model.load_state_dict(accelerated.state_dict())
    torch.onnx.export(model.eval(), (x,), tmp_path / "model.onnx", dynamo=True)
    session = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    outputs = session.run(None, {session.input_names[0]: x.numpy()})
    with torch.no_grad():
        expected = model(x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(outputs) == len(expected)
    for output, value in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.tensor(output), value, rtol=1e-4, atol=1e-4)
