"""Convolution and LayerNorm whose second derivatives cost what they must, and no more.

The gradient penalty differentiates a gradient. PyTorch can do that for its own layers, but slowly:
the weight gradient of a convolution's input gradient becomes a convolution with the batch as its
channels and a whole feature map as its kernel, and LayerNorm's is put together from some thirty
passes over the map. Here both are written down; values and gradients are the same function.

    score = ...                                    # made of conv2d and layer_norm, and other layers
    gradient = input_gradient(score.sum(), images, create_graph=True)
    (gradient.norm() - 1).square().backward()      # reaches the weights

A third derivative of layer_norm is refused (NotImplementedError).
"""

import contextlib
import sys

import torch
import torch.nn.functional as F

_compiled = {}  # a cache, function: its compiled form, or itself where that does not work


def compile_works(device):
    """Whether torch.compile can make layer_norm's kernels there; if not, a notice on stderr.

    For GPUs: PyTorch's own kernels give each image, a long row, to a single multiprocessor.
    """
    _compiled.clear()  # what did not work before is tried again
    x, affine = torch.zeros(2, 8, device=device), torch.zeros(8, device=device)
    _run(_norm_forward, True, x, affine, affine, 1e-5, 8, 1.0)
    return _compiled[_norm_forward] is not _norm_forward


def _run(function, compiled, *args):
    """function(*args), compiled if so asked; where that fails, a notice, and it stays as it is."""
    if not compiled:
        return function(*args)
    # Detached: with their place in the graph, tensors of the same shape would be compiled for anew.
    args = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
    try:
        if function not in _compiled:
            _compiled[function] = torch.compile(function, dynamic=False)
        # One compilation for each shape. Set here, since every thread has its own setting.
        torch._dynamo.config.recompile_limit = 64
        return _compiled[function](*args)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of Dynamo, Inductor, Triton or the C compiler
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        print(f"note: torch.compile does not work here: {reason}", file=sys.stderr)
        _compiled[function] = function
        return function(*args)


def input_gradient(output, inputs, create_graph=False):
    """d output / d inputs; with create_graph it can be differentiated in the weights on the way.

    output: a scalar. As torch.autograd.grad, but no weight's own gradient is computed on the way:
    autograd asks a Python function for all gradients it can give, wanted or not. While it runs, no
    other thread may run a backward pass through the same graph.
    """
    with _inputs_only(output):
        (gradient,) = torch.autograd.grad(output, inputs, create_graph=create_graph)
    return gradient


@contextlib.contextmanager
def _inputs_only(output):
    """Tells the layers that made `output` to compute no gradient of a weight.

    The nodes of its graph are told, each of which is the `ctx` that its backward gets. A switch of
    the calling thread would not do: on CUDA autograd runs the pass in a thread of its own.
    """
    told, seen, ahead = [], set(), [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]
        if getattr(node, "inputs_only", None) is False:  # True: an outer pass's to take back
            node.inputs_only = True
            told.append(node)
    try:
        yield
    finally:
        for node in told:
            node.inputs_only = False


def conv2d(x, weight, bias, stride=(1, 1), padding=(0, 0)):
    """F.conv2d, in autocast's precision where that is on.

    x: (b, c, h, w); weight: (out, c, k, k); bias: (out,) -> (b, out, h', w').
    """
    x, weight, bias = _autocast(x, weight, bias)
    return _Conv2d.apply(x, weight, bias, stride, padding)


def layer_norm(x, weight, bias, eps=1e-5, count=None, compiled=False, slope=1.0):
    """F.layer_norm over all dimensions but the first; statistics in float32, output like x.

    x: (b, ...) of any float type; weight, bias: (...). CUDA's own kernels take one type only:
    there the affine map, and its gradient, are rounded to that of x, unless `compiled`: then
    torch.compile makes the kernels, see compile_works.
    count: how many entries of a row count, None for all; the others must be 0 in x, weight and
    bias. They are then 0 in the output, and have any gradient.
    slope: what is below zero in the output is multiplied by it, as by a LeakyReLU after it; the
    kernels do that on the way, where the LeakyReLU would read and write the map once more in the
    forward pass, the gradient and the second derivative.
    Raises ValueError for a count or a slope where it does not run compiled.
    """
    if not compiled and (count not in (None, weight.numel()) or slope != 1):
        raise ValueError("count and slope need compiled=True")
    if x.device.type != "cpu" and not compiled:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return _LayerNorm.apply(x, weight, bias, eps, count or weight.numel(), compiled, slope)


def _autocast(*tensors):
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _wanted(ctx):
    """Whether the gradients of input, weight and bias are to be computed."""
    of_input, *of_weights = ctx.needs_input_grad[:3]
    return [of_input, *(wanted and not ctx.inputs_only for wanted in of_weights)]


def _conv2d_gradients(g, x, weight, stride, padding, wanted):
    """Those of input, weight and bias that are `wanted` (three bools); None for the others."""
    own_bias = wanted[2] and g.device.type == "cuda"
    asked = [*wanted[:2], wanted[2] and not own_bias]
    d_x, d_weight, d_bias = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, (1, 1), False, (0, 0), 1, asked
    )
    return d_x, d_weight, channel_sums(g) if own_bias else d_bias


def channel_sums(x):
    """(b, c, h, w) -> (c,): of a channels_last map, as a product of matrices.

    PyTorch's sum over so many rows keeps few of a GPU's multiprocessors busy.
    """
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return (rows.new_ones(1, len(rows)) @ rows)[0]


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.inputs_only = stride, padding, False
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        wanted = _wanted(ctx)
        if not torch.is_grad_enabled():
            return *_conv2d_gradients(g, x, weight, ctx.stride, ctx.padding, wanted), None, None
        d_x = d_weight = d_bias = None
        if wanted[0]:
            d_x = _Conv2dInputGradient.apply(g, x, weight, ctx.stride, ctx.padding)
        if any(wanted[1:]):
            wanted[0] = False
            gradients = _conv2d_gradients(g, x, weight, ctx.stride, ctx.padding, wanted)
            _, d_weight, d_bias = gradients
        return d_x, d_weight, d_bias, None, None


class _Conv2dInputGradient(torch.autograd.Function):
    """Linear in g and in the weight; of x only the shape matters."""

    @staticmethod
    def forward(ctx, g, x, weight, stride, padding):
        ctx.save_for_backward(g, weight)
        ctx.stride, ctx.padding = stride, padding
        return _conv2d_gradients(g, x, weight, stride, padding, [True, False, False])[0]

    @staticmethod
    def backward(ctx, v):
        g, weight = ctx.saved_tensors
        d_g = d_weight = None
        if ctx.needs_input_grad[0]:
            d_g = F.conv2d(v, weight, None, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            wanted = [False, True, False]
            _, d_weight, _ = _conv2d_gradients(g, v, weight, ctx.stride, ctx.padding, wanted)
        return d_g, None, d_weight, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, count, compiled, slope):
        with torch.autocast(x.device.type, enabled=False):  # on CUDA it would cast to float32
            if compiled:
                affine = weight.flatten(), bias.flatten()
                y, mean, rstd = _run(_norm_forward, True, x.flatten(1), *affine, eps, count, slope)
                y = y.view_as(x)
            else:
                y, mean, rstd = torch.native_layer_norm(x, x.shape[1:], weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.eps, ctx.options, ctx.inputs_only = eps, (count, compiled, slope), False
        return y

    @staticmethod
    def backward(ctx, g):
        rows, wanted = (g, *ctx.saved_tensors), _wanted(ctx)
        if not torch.is_grad_enabled():
            gradients = _layer_norm_gradients(*rows, *ctx.options, wanted)
            return *gradients, None, None, None, None
        (x, weight), (count, _, slope) = ctx.saved_tensors[:2], ctx.options
        if any(wanted[1:]) and (count < weight.numel() or slope != 1):
            raise NotImplementedError("input_gradient is the way to differentiate this twice")
        d_x = d_weight = d_bias = None
        if wanted[0]:
            d_x = _LayerNormInputGradient.apply(*rows, *ctx.options)
        if wanted[1]:
            d_weight = (g * F.layer_norm(x, x.shape[1:], eps=ctx.eps)).sum(0)
        if wanted[2]:
            d_bias = g.sum(0)
        return d_x, d_weight, d_bias, None, None, None, None


def _layer_norm_gradients(g, x, weight, bias, mean, rstd, count, compiled, slope, wanted):
    with torch.autocast(x.device.type, enabled=False):
        if not compiled:
            return torch.ops.aten.native_layer_norm_backward(
                g.contiguous(), x, x.shape[1:], mean, rstd, weight, bias, wanted
            )
        rows = (g.flatten(1), x.flatten(1), weight.flatten(), bias.flatten(), mean, rstd)
        if not any(wanted[1:]):
            return _run(_norm_input_gradient, True, *rows, count, slope).view_as(x), None, None
        d_x, d_weight, d_bias = _run(_norm_gradients, True, *rows, count, slope)
        return d_x.view_as(x), d_weight.view_as(weight), d_bias.view_as(weight)


def _norm_forward(x, weight, bias, eps, count, slope):
    """x: (b, n); weight, bias: (n,) -> output like x, mean and 1 / std, (b, 1).

    count: entries of a row that count; the others are 0. slope: see layer_norm.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.sum(1, keepdim=True) / count
    away = wide - mean
    squares = away.square().sum(1, keepdim=True) - (x.shape[1] - count) * mean.square()
    rstd = (squares / count + eps).rsqrt()
    y = away * rstd * weight + bias
    if slope != 1:
        y = F.leaky_relu(y, slope)
    return y.to(x.dtype), mean, rstd


def _leaky_relu_backward(g, x, weight, bias, mean, rstd, slope):
    """(g before the LeakyReLU, z): g where z weight + bias > 0, slope g elsewhere; (b, n) both."""
    z = (x.to(mean.dtype) - mean) * rstd
    g = g.to(mean.dtype)
    return g if slope == 1 else torch.where(z * weight + bias > 0, g, slope * g), z


def _norm_input_gradient(g, x, weight, bias, mean, rstd, count, slope):
    """g, x: (b, n); weight, bias: (n,); mean, rstd: (b, 1) -> (b, n).

    As _LayerNormInputGradient says.
    """
    g, z = _leaky_relu_backward(g, x, weight, bias, mean, rstd, slope)
    h = g * weight
    by_one, by_z = (sums.sum(1, keepdim=True) / count for sums in (h, h * z))
    return (rstd * (h - by_one - z * by_z)).to(x.dtype)


def _norm_gradients(g, x, weight, bias, mean, rstd, count, slope):
    """The same, and the gradients of weight and bias, (n,)."""
    d_x = _norm_input_gradient(g, x, weight, bias, mean, rstd, count, slope)
    g, z = _leaky_relu_backward(g, x, weight, bias, mean, rstd, slope)
    return d_x, (g * z).sum(0).to(weight.dtype), g.sum(0).to(weight.dtype)


class _LayerNormInputGradient(torch.autograd.Function):
    """s (h - mean(h) - z mean(h z)), where h = g * weight, z = (x - mean(x)) s, s = 1 / std(x).

    With a slope g is first taken back through the LeakyReLU, a constant factor for each entry: so
    the gradient of g is, last of all, multiplied by it too, and x and bias have no other part in
    it. mean and rstd are functions of x; the derivative with respect to x counts them in.
    """

    @staticmethod
    def forward(ctx, g, x, weight, bias, mean, rstd, *options):
        ctx.save_for_backward(g, x, weight, bias, mean, rstd)
        ctx.options = options
        wanted = [True, False, False]
        return _layer_norm_gradients(g, x, weight, bias, mean, rstd, *options, wanted)[0]

    @staticmethod
    def backward(ctx, v):
        if torch.is_grad_enabled():
            raise NotImplementedError("layer_norm has no third derivative")
        g, x, weight, bias, mean, rstd = ctx.saved_tensors
        rows = [t.flatten(1) for t in (v, g, x)]
        norm = weight.flatten(), bias.flatten(), mean.flatten(1), rstd.flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            d_g, d_x, d_weight = _in_chunks(*rows, *norm, *ctx.options)
        gradients = d_g.view_as(g), d_x.view_as(x), d_weight.view_as(weight)
        return *gradients, None, None, None, None, None, None


def _in_chunks(v, g, x, weight, bias, mean, rstd, count, compiled, slope):
    """_layer_norm_second for a few images at a time on the CPU, so that they stay in its cache."""
    if compiled or x.device.type != "cpu":
        rows = (v, g, x, weight, bias, mean, rstd)
        return _run(_layer_norm_second_compiled, compiled, *rows, count, slope)
    images = max(1, 2**20 // weight.numel())
    d_g, d_x, d_weight = torch.empty_like(g), torch.empty_like(x), torch.zeros_like(weight)
    for start in range(0, len(x), images):
        few = slice(start, start + images)
        norm = (weight, mean[few], rstd[few], count)
        d_g[few], d_x[few], d_weight_of_few = _layer_norm_second(v[few], g[few], x[few], *norm)
        d_weight += d_weight_of_few
    return d_g, d_x, d_weight


def _layer_norm_second_compiled(v, g, x, weight, bias, mean, rstd, count, slope):
    """_layer_norm_second with a slope; each gradient in the dtype of what it is the gradient of."""
    norm = (x, weight, bias, mean, rstd, slope)
    before, _ = _leaky_relu_backward(g, *norm)
    d_before, d_x, d_weight = _layer_norm_second(v, before, x, weight, mean, rstd, count)
    d_g, _ = _leaky_relu_backward(d_before, *norm)
    return d_g.to(g.dtype), d_x.to(x.dtype), d_weight.to(weight.dtype)


def _layer_norm_second(v, g, x, weight, mean, rstd, count):
    """Gradients of <v, input gradient> with respect to g, x and weight.

    v, g, x: (b, n); weight: (n,); mean, rstd: (b, 1); count: entries of a row that count. With h
    and z as above and m(.) the mean over a row, the input gradient is s (h - m(h) - z m(h z)), and
    <v, .> differentiates to
        h: s (v - m(v) - z m(v z))
        x: -s^2 (m(hz) (v - m(v)) + m(vz) (h - m(h)) + z (m(vh) - m(v) m(h) - 3 m(hz) m(vz)))
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    v, g, s, weight = v.to(wide), g.to(wide), rstd.to(wide), weight.to(wide)
    z = (x - mean.to(wide)).mul_(s)
    h = g * weight

    def m(a, b=None):
        return ((torch.linalg.vecdot(a, b) if b is not None else a.sum(1)) / count)[:, None]

    m_v, m_h, m_vz, m_hz, m_vh = m(v), m(h), m(v, z), m(h, z), m(v, h)
    d_h = torch.addcmul(v - m_v, z, m_vz, value=-1).mul_(s)
    d_weight = torch.linalg.vecdot(g, d_h, dim=0)
    d_x = (v * m_hz).addcmul_(h, m_vz).addcmul_(z, m_vh - m_v * m_h - 3 * m_hz * m_vz)
    d_x = d_x.sub_(m_hz * m_v + m_vz * m_h).mul_(-s * s)
    return d_h.mul_(weight), d_x, d_weight
