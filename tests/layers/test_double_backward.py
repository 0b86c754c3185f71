import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from compare import relative_error
from inside_cnn.layers import double_backward


def tensors(*shapes, dtype=torch.float64, device="cpu"):
    stream = torch.Generator().manual_seed(0)
    values = (torch.randn(s, generator=stream, dtype=torch.float64) for s in shapes)
    return [t.to(device, dtype).requires_grad_() for t in values]


def conv_inputs(**kind):
    return tensors((2, 3, 6, 6), (4, 3, 3, 3), (4,), **kind)


def norm_inputs(**kind):
    return tensors((3, 2, 4, 5), (2, 4, 5), (2, 4, 5), **kind)


def own_conv(stride):
    return lambda x, w, b: double_backward.conv2d(x, w, b, (stride, stride), (1, 1))


def native_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[1:], weight, bias)


LAYERS = {
    "convolution": (conv_inputs, own_conv(1), lambda x, w, b: F.conv2d(x, w, b, 1, 1)),
    "strided convolution": (conv_inputs, own_conv(2), lambda x, w, b: F.conv2d(x, w, b, 2, 1)),
    "layer norm": (norm_inputs, double_backward.layer_norm, native_norm),
}


DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_agree_with_finite_differences(name):
    inputs, layer, _ = LAYERS[name]
    assert torch.autograd.gradcheck(layer, inputs())
    assert torch.autograd.gradgradcheck(layer, inputs())


def penalty_gradients(layer, inputs, gradient_of):
    """Gradients of a penalty on the input gradient of tanh(layer), and of the output itself."""
    y = torch.tanh(layer(*inputs))
    gradient = gradient_of((y * y.detach().cos()).sum(), inputs[0], create_graph=True)
    loss = (gradient.flatten(1).norm(dim=1) - 1).square().mean() + y.square().sum()
    return torch.autograd.grad(loss, inputs)


def plain_gradient(output, inputs, create_graph):
    return torch.autograd.grad(output, inputs, create_graph=create_graph)[0]


def assert_equal_gradients(layer, inputs, native, exact_inputs, tolerance):
    """Compare the gradients of a penalty through our layer with those through PyTorch's layer."""
    ours = penalty_gradients(layer, inputs, double_backward.input_gradient)
    theirs = penalty_gradients(native, exact_inputs, plain_gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a.cpu(), b) < tolerance


@DEVICES
@pytest.mark.parametrize("name", LAYERS)
def test_penalty_gradients_equal_those_of_pytorch(name, device):
    make, layer, native = LAYERS[name]
    tolerance = 1e-12 if device == "cpu" else 1e-10
    assert_equal_gradients(layer, make(device=device), native, make(), tolerance)


class RequestedGradients(TorchDispatchMode):
    """The output masks (input, weight, bias) of all calls of the layers' backward kernels."""

    KERNELS = (
        torch.ops.aten.convolution_backward.default,
        torch.ops.aten.native_layer_norm_backward.default,
    )

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.KERNELS:
            self.calls.append(tuple(args[-1]))
        return function(*args, **(kwargs or {}))


INPUT_ONLY, WEIGHTS_ONLY, ALL = (True, False, False), (False, True, True), (True, True, True)


@DEVICES
@pytest.mark.parametrize("name", LAYERS)
def test_only_requested_gradients_are_computed(name, device):
    """On CUDA autograd runs the pass in its own thread."""
    make, layer, _ = LAYERS[name]
    x, w, b = make(device=device)
    with RequestedGradients() as requested:
        for create_graph in (True, False):
            double_backward.input_gradient(layer(x, w, b).square().sum(), x, create_graph)
        layer(x, w, b).sum().backward()
        layer(x, w.detach(), b.detach()).sum().backward()
        layer(x.detach(), w, b).sum().backward()
    assert requested.calls == [INPUT_ONLY, INPUT_ONLY, ALL, INPUT_ONLY, WEIGHTS_ONLY]


def test_third_derivative_of_layer_norm_is_refused():
    x, w, b = norm_inputs()
    y = torch.tanh(double_backward.layer_norm(x, w, b))
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        torch.autograd.grad(g.square().sum(), w, create_graph=True)


def test_chunks_of_images_equal_the_whole_batch():
    """The last chunk is smaller than the others."""
    inputs = tensors((21, 64, 64, 16), (64, 64, 16), (64, 64, 16), dtype=torch.float32)
    assert 1 < 2**20 // inputs[1].numel() < 21
    exact = [t.detach().double().requires_grad_() for t in inputs]
    assert_equal_gradients(double_backward.layer_norm, inputs, native_norm, exact, 1e-5)


def norm_of_padded_rows(x, weight, bias, added):
    """layer_norm of rows padded with zeros, without the padding."""
    filled = [F.pad(t.flatten(t.dim() - 3), (0, added)) for t in (x, weight, bias)]
    y = double_backward.layer_norm(*filled, count=weight.numel(), compiled=True)
    assert y[:, weight.numel() :].eq(0).all()
    return y[:, : weight.numel()].view_as(x)


@pytest.mark.parametrize("added", [0, 8])
def test_compilable_functions_equal_pytorchs_kernels(uncompiled, added):
    def layer(x, weight, bias):
        return norm_of_padded_rows(x, weight, bias, added)

    inputs = norm_inputs()
    torch.testing.assert_close(layer(*inputs), native_norm(*inputs))
    assert_equal_gradients(layer, inputs, native_norm, inputs, 1e-12)


def test_padded_rows_have_no_second_derivative_through_the_weights(uncompiled):
    x, weight, bias = norm_inputs()
    for parameter in (weight, bias):
        total = norm_of_padded_rows(x, weight, bias, 8).square().sum()
        with pytest.raises(NotImplementedError, match="input_gradient"):
            torch.autograd.grad(total, parameter, create_graph=True)


NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=[pytest.mark.slow, NO_COMPILER]),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def test_compiled_layer_norm_equals_pytorchs(device):
    def layer(x, weight, bias):
        return double_backward.layer_norm(x, weight, bias, compiled=True)

    assert double_backward.compile_works(torch.device(device))
    inputs = norm_inputs(dtype=torch.float32, device=device)
    assert_equal_gradients(layer, inputs, native_norm, norm_inputs(), 1e-4)
