"""The two layers and their derivatives, against PyTorch's own and against finite differences."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from compare import relative_error
from layers import double_backward


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


@pytest.mark.parametrize("name", LAYERS)
def test_penalty_gradients_equal_those_of_pytorch(name):
    make, layer, native = LAYERS[name]
    ours = penalty_gradients(layer, make(), double_backward.input_gradient)
    theirs = penalty_gradients(native, make(), plain_gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) < 1e-12


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYERS)
def test_penalty_gradients_equal_those_of_pytorch_on_cuda(name):
    make, layer, native = LAYERS[name]
    ours = penalty_gradients(layer, make(device="cuda"), double_backward.input_gradient)
    theirs = penalty_gradients(native, make(), plain_gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a.cpu(), b) < 1e-10


@pytest.fixture
def asked(monkeypatch):
    """The gradients asked for of the two layers' kernels, in the order of the calls."""
    found = []

    def spy_on(name):
        original = getattr(double_backward, name)

        def spy(*args):
            found.append(tuple(args[-1]))
            return original(*args)

        monkeypatch.setattr(double_backward, name, spy)

    spy_on("_conv2d_gradients")
    spy_on("_layer_norm_gradients")
    return found


INPUT_ONLY, WEIGHTS_ONLY, ALL = (True, False, False), (False, True, True), (True, True, True)


@pytest.mark.parametrize("name", LAYERS)
def test_input_gradient_leaves_out_the_weights_first_derivative(name, asked):
    make, layer, _ = LAYERS[name]
    x, w, b = make()
    for create_graph in (True, False):
        double_backward.input_gradient(layer(x, w, b).square().sum(), x, create_graph)
    assert asked == [INPUT_ONLY] * 2
    with pytest.raises(RuntimeError):
        double_backward.input_gradient(torch.ones(()), x)
    layer(x, w, b).sum().backward()  # the failure left nothing behind
    assert asked[2:] == [ALL]


def test_input_gradient_of_an_input_gradient():
    """The inner call must not switch the outer one's weights back on, nor itself off."""
    with double_backward._only_input_gradients():
        with double_backward._only_input_gradients():
            pass
        assert double_backward._inputs_only
    assert not double_backward._inputs_only


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
def test_nothing_is_computed_for_what_is_frozen(name, asked):
    make, layer, _ = LAYERS[name]
    x, w, b = make()
    layer(x, w.detach(), b.detach()).sum().backward()
    layer(x.detach(), w, b).sum().backward()
    assert asked == [INPUT_ONLY, WEIGHTS_ONLY]


def test_an_empty_batch():
    for make, layer, _ in LAYERS.values():
        x, w, b = make()
        x = x[:0].detach().requires_grad_()
        gradients = penalty_free(layer, x, w, b)
        assert all(g.shape == t.shape for g, t in zip(gradients, (x, w), strict=True))


def penalty_free(layer, x, w, b):
    g = double_backward.input_gradient(layer(x, w, b).square().sum(), x, create_graph=True)
    return torch.autograd.grad(g.square().sum(), (x, w))


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


def norm_rows():
    torch.manual_seed(0)
    rows = [torch.randn(3, 40, dtype=torch.float64) for _ in range(3)]
    return *rows, torch.randn(40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)


@pytest.mark.parametrize("added", [0, 8])
def test_the_functions_to_compile_equal_pytorchs_kernels(added):
    """Also where zeros that do not count were added to the rows."""
    v, g, x, weight, bias = norm_rows()
    y, mean, rstd = torch.native_layer_norm(x, [40], weight, bias, 1e-5)
    expected = torch.ops.aten.native_layer_norm_backward(
        *(g, x, [40], mean, rstd, weight, bias), [True, True, True]
    )
    second = double_backward._layer_norm_second(v, g, x, mean, rstd, weight, 40)
    v, g, x, weight, bias = (F.pad(t, (0, added)) for t in (v, g, x, weight, bias))
    y2, mean2, rstd2 = double_backward._norm_forward(x, weight, bias, 1e-5, 40)
    torch.testing.assert_close((y2[:, :40], mean2, rstd2), (y, mean, rstd))
    assert y2[:, 40:].eq(0).all()
    rows = g, x, mean2, rstd2, weight, 40
    found = double_backward._norm_gradients(*rows)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a[..., :40], b)
    torch.testing.assert_close(double_backward._norm_input_gradient(*rows), found[0])
    found = double_backward._layer_norm_second_like(v, *rows)
    for a, b in zip(found, second, strict=True):
        torch.testing.assert_close(a[..., :40], b)


def test_where_torch_compile_fails_all_stays_as_it_was(monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no C compiler\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    double_backward.compile_for(torch.device("cpu"))
    assert "note: torch.compile does not work here: no C compiler\n" in capsys.readouterr().err
    assert not double_backward.compiles_for(torch.device("cpu"))


def test_a_function_that_does_not_compile_is_taken_as_it_is(monkeypatch, capsys):
    def compile_some(function, **_):
        if function is double_backward._norm_forward:
            return lambda *args: function(*args)
        raise RuntimeError("")

    monkeypatch.setattr(torch, "compile", compile_some)
    double_backward.compile_for(torch.device("cpu"))
    x = torch.randn(3, 10, requires_grad=True)
    weight, bias = torch.randn(2, 10)
    try:
        for _ in range(2):
            y = double_backward.layer_norm(x, weight, bias)
            (found,) = torch.autograd.grad(y.square().sum(), x)
    finally:
        double_backward.compile_for(None)
    assert capsys.readouterr().err.count("note:") == 1
    (expected,) = torch.autograd.grad(F.layer_norm(x, (10,), weight, bias).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_entries_that_do_not_count_need_the_compiled_way():
    with pytest.raises(ValueError, match="compiled"):
        double_backward.layer_norm(torch.ones(2, 8), torch.ones(8), torch.ones(8), count=6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layer_norm_equals_pytorchs():
    def results():
        torch.manual_seed(0)
        x = torch.randn(3, 5, 4, 4, requires_grad=True)
        weight, bias = torch.randn(2, 5, 4, 4).requires_grad_().unbind()
        y = double_backward.layer_norm(x, weight, bias)
        gradient = double_backward.input_gradient(y.square().sum(), x, create_graph=True)
        return y, *torch.autograd.grad((gradient.square() + y).sum(), (x, weight))

    expected = results()
    double_backward.compile_for(torch.device("cpu"))
    try:
        assert double_backward.compiles_for(torch.device("cpu"))
        found = results()
    finally:
        double_backward.compile_for(None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
