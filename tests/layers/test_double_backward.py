"""The two layers and their derivatives, against PyTorch's own and against finite differences."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from compare import relative_error
from inside_cnn.layers import double_backward


def tensors(*shapes, dtype=torch.float64, device="cpu"):
    stream = torch.Generator().manual_seed(0)
    drawn = (torch.randn(s, generator=stream, dtype=torch.float64) for s in shapes)
    return [t.to(device, dtype).requires_grad_() for t in drawn]


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
    # The weight's first derivative, differentiated in turn, is there for whoever asks.
    assert torch.autograd.gradgradcheck(layer, inputs())


def penalty_gradients(layer, inputs, gradient_of):
    """Gradients of a penalty on the input gradient of tanh(layer), and of the output itself."""
    y = torch.tanh(layer(*inputs))
    gradient = gradient_of((y * y.detach().cos()).sum(), inputs[0], create_graph=True)
    loss = (gradient.flatten(1).norm(dim=1) - 1).square().mean() + y.square().sum()
    return torch.autograd.grad(loss, inputs)


def plain_gradient(output, inputs, create_graph):
    return torch.autograd.grad(output, inputs, create_graph=create_graph)[0]


@DEVICES
@pytest.mark.parametrize("name", LAYERS)
def test_penalty_gradients_equal_those_of_pytorch(name, device):
    make, layer, native = LAYERS[name]
    ours = penalty_gradients(layer, make(device=device), double_backward.input_gradient)
    theirs = penalty_gradients(native, make(), plain_gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a.cpu(), b) < (1e-12 if device == "cpu" else 1e-10)


class RequestedGradients(TorchDispatchMode):
    """Which gradients (of input, weight, bias) the layers' kernels are asked for, call by call."""

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
def test_input_gradient_leaves_out_the_weights_first_derivative(name, device):
    """On CUDA the pass runs in a thread of autograd's own."""
    make, layer, _ = LAYERS[name]
    x, w, b = make(device=device)
    with RequestedGradients() as requested:
        for create_graph in (True, False):
            double_backward.input_gradient(layer(x, w, b).square().sum(), x, create_graph)
    assert requested.calls == [INPUT_ONLY] * 2


@pytest.mark.parametrize("name", LAYERS)
def test_after_an_input_gradient_the_same_graph_still_reaches_the_weights(name):
    make, layer, _ = LAYERS[name]
    x, w, b = make()
    total = layer(x, w, b).square().sum()
    expected = torch.autograd.grad(total, (x, w, b), retain_graph=True)
    double_backward.input_gradient(total, x, create_graph=True)
    unused = torch.ones((), requires_grad=True)
    with pytest.raises(RuntimeError):
        double_backward.input_gradient(total, unused)  # the failure leaves nothing behind either
    for ours, theirs in zip(torch.autograd.grad(total, (x, w, b)), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_third_derivative_is_right_or_refused():
    third = {}
    for name in LAYERS:
        make, layer, native = LAYERS[name]
        for kind, function in (("ours", layer), ("native", native)):
            x, w, b = make()
            y = torch.tanh(function(x, w, b))
            (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            if name == "layer norm" and kind == "ours":
                with pytest.raises(NotImplementedError, match="third derivative"):
                    torch.autograd.grad(g.square().sum(), w, create_graph=True)
                continue
            (h,) = torch.autograd.grad(g.square().sum(), w, create_graph=True)
            (third[name, kind],) = torch.autograd.grad(h.square().sum(), x)
        if name != "layer norm":
            assert relative_error(third[name, "ours"], third[name, "native"]) < 1e-12


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_computed_for_what_is_frozen(name):
    make, layer, _ = LAYERS[name]
    x, w, b = make()
    with RequestedGradients() as requested:
        layer(x, w, b).sum().backward()
        layer(x, w.detach(), b.detach()).sum().backward()
        layer(x.detach(), w, b).sum().backward()
    assert requested.calls == [ALL, INPUT_ONLY, WEIGHTS_ONLY]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_norm_in_16_bit(dtype):
    inputs = norm_inputs(dtype=dtype)
    ours = penalty_gradients(double_backward.layer_norm, inputs, double_backward.input_gradient)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    exact = penalty_gradients(native_norm, exact, plain_gradient)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, b) < 0.05


def test_a_backward_pass_inside_autocast_changes_nothing():
    inputs = norm_inputs(dtype=torch.float32)
    outside = penalty_gradients(double_backward.layer_norm, inputs, double_backward.input_gradient)
    with torch.autocast("cpu", torch.bfloat16):
        inside = penalty_gradients(
            double_backward.layer_norm, inputs, double_backward.input_gradient
        )
    for a, b in zip(inside, outside, strict=True):
        assert relative_error(a, b) < 1e-6


def test_chunks_change_nothing_but_rounding():
    """Feature maps that make several chunks, with a last one that is smaller."""
    x, w, b = tensors((21, 64, 64, 16), (64, 64, 16), (64, 64, 16), dtype=torch.float32)
    assert 1 < 2**20 // w.numel() < 21
    ours = penalty_gradients(double_backward.layer_norm, [x, w, b], double_backward.input_gradient)
    exact = [t.detach().double().requires_grad_() for t in (x, w, b)]
    exact = penalty_gradients(
        lambda x, w, b: F.layer_norm(x, x.shape[1:], w, b), exact, plain_gradient
    )
    for a, b in zip(ours, exact, strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.fixture
def uncompiled(monkeypatch):
    """The functions themselves in place of compiled ones, for layer_norm's `compiled`."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: function(*args))
    assert double_backward.compile_works(torch.device("cpu"))


def norm_of_filled_rows(x, weight, bias, added):
    """The norm of rows to whose ends zeros that do not count are added, without those."""
    filled = [F.pad(t.flatten(t.dim() - 3), (0, added)) for t in (x, weight, bias)]
    y = double_backward.layer_norm(*filled, count=weight.numel(), compiled=True)
    assert y[:, weight.numel() :].eq(0).all()
    return y[:, : weight.numel()].view_as(x)


@pytest.mark.parametrize("added", [0, 8])
def test_the_functions_to_compile_equal_pytorchs_kernels(uncompiled, added):
    def layer(x, weight, bias):
        return norm_of_filled_rows(x, weight, bias, added)

    inputs = norm_inputs()
    torch.testing.assert_close(layer(*inputs), native_norm(*inputs))
    ours = penalty_gradients(layer, inputs, double_backward.input_gradient)
    theirs = penalty_gradients(native_norm, inputs, plain_gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) < 1e-12


def test_padded_rows_have_no_second_derivative_through_the_weights(uncompiled):
    x, weight, bias = norm_inputs()
    for parameter in (weight, bias):
        total = norm_of_filled_rows(x, weight, bias, 8).square().sum()
        with pytest.raises(NotImplementedError, match="input_gradient"):
            torch.autograd.grad(total, parameter, create_graph=True)


def test_a_function_that_does_not_compile_is_taken_as_it_is(monkeypatch, capsys):
    compiled = []

    def compile_the_first(function, **_):
        if compiled:
            raise RuntimeError("")
        compiled.append(function)
        return lambda *args: function(*args)

    monkeypatch.setattr(torch, "compile", compile_the_first)
    assert double_backward.compile_works(torch.device("cpu"))
    x = torch.randn(3, 10, requires_grad=True)
    weight, bias = torch.randn(2, 10)
    for _ in range(2):
        y = double_backward.layer_norm(x, weight, bias, compiled=True)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert capsys.readouterr().err.count("note:") == 1
    (expected,) = torch.autograd.grad(F.layer_norm(x, (10,), weight, bias).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_a_count_needs_the_compiled_kernels():
    with pytest.raises(ValueError, match="compiled"):
        double_backward.layer_norm(torch.ones(2, 8), torch.ones(8), torch.ones(8), count=6)


NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=[pytest.mark.slow, NO_COMPILER]),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def test_compiled_layer_norm_equals_pytorchs(device):
    def results(compiled):
        x, weight, bias = norm_inputs(dtype=torch.float32, device=device)
        if compiled:
            y = double_backward.layer_norm(x, weight, bias, compiled=True)
        else:
            y = native_norm(x, weight, bias)
        gradient = double_backward.input_gradient(y.square().sum(), x, create_graph=True)
        gradients = torch.autograd.grad((gradient.square() + y).sum(), (x, weight, bias))
        return y, gradient, *gradients

    assert double_backward.compile_works(torch.device(device))
    torch.testing.assert_close(results(True), results(False), rtol=1e-4, atol=1e-4)
