"""Convolution and LayerNorm with fast second derivatives.

The gradient penalty differentiates a gradient. PyTorch's own layers support that, but slowly: the
weight gradient of a convolution's input gradient is a convolution whose kernel is a whole feature
map, and that of LayerNorm takes about thirty passes over the map. These layers compute the same
function, with second derivatives derived by hand.

    score = ...                                    # uses conv2d and layer_norm
    gradient = input_gradient(score.sum(), images, create_graph=True)
    (gradient.norm() - 1).square().backward()      # gradients of the weights

A third derivative of layer_norm raises NotImplementedError.
"""

import functools
import sys

import torch
import torch.nn.functional as F


def compile_works(device):
    """Whether torch.compile can compile layer_norm for the device; prints a notice if it cannot.

    For GPUs: PyTorch's own kernels use a single multiprocessor for each image.
    """
    _compile.cache_clear()
    x, affine = torch.zeros(2, 8, device=device), torch.zeros(8, device=device)
    try:
        _run_compiled(_norm_forward, x, affine, affine, 1e-5, 8)
    except Exception as error:  # of Dynamo, Inductor, Triton or the C compiler
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        print(f"note: torch.compile does not work here: {reason}", file=sys.stderr)
        return False
    return True


@functools.cache
def _compile(function):
    return torch.compile(function, dynamic=False)


def _run_compiled(function, *args):
    # Detached, since torch.compile would recompile for tensors at another place in the graph.
    args = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
    # One compilation for each shape. The setting belongs to the thread, so it is set here.
    torch._dynamo.config.recompile_limit = 64
    return _compile(function)(*args)


def input_gradient(output, inputs, create_graph=False):
    """d output / d inputs; with create_graph it can be differentiated with respect to the weights.

    output: a scalar. Like torch.autograd.grad, but the layers do not compute the gradients of their
    weights, which autograd requests from every Python function. No other thread may run a backward
    pass through the same graph at the same time.
    """
    # The flag is an attribute of the graph's nodes, the `ctx` of backward, and not of this thread:
    # on CUDA autograd has its own threads.
    visited, stack = set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in visited:
            visited.add(node)
            stack += [previous for previous, _ in node.next_functions]
    nodes = [node for node in visited if hasattr(node, "inputs_only")]
    try:
        for node in nodes:
            node.inputs_only = True
        return torch.autograd.grad(output, inputs, create_graph=create_graph)[0]
    finally:
        for node in nodes:
            node.inputs_only = False


def conv2d(x, weight, bias, stride=(1, 1), padding=(0, 0)):
    """F.conv2d, in the precision of autocast if it is enabled.

    x: (b, c, h, w); weight: (out, c, k, k); bias: (out,) -> (b, out, h', w').
    """
    x, weight, bias = _autocast(x, weight, bias)
    return _Conv2d.apply(x, weight, bias, stride, padding)


def layer_norm(x, weight, bias, eps=1e-5, count=None, compiled=False):
    """F.layer_norm over all dimensions but the first; statistics in float32, output like x.

    x: (b, ...) of any float type; weight, bias: (...). compiled: use torch.compile, see
    compile_works; otherwise weight and bias are rounded to the type of x on CUDA.
    count: number of entries of a row without padding, default: all. The padding must be 0 in x,
    weight and bias; it is 0 in the output and has an arbitrary gradient.
    Raises ValueError for padding without `compiled`.
    """
    if not compiled and count not in (None, weight.numel()):
        raise ValueError("padding needs compiled=True")
    if x.device.type != "cpu" and not compiled:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return _LayerNorm.apply(x, weight, bias, eps, count or weight.numel(), compiled)


def _autocast(*tensors):
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _required(ctx):
    """Whether the gradients of input, weight and bias are required."""
    of_input, *of_weights = ctx.needs_input_grad[:3]
    return [of_input, *(needed and not ctx.inputs_only for needed in of_weights)]


def _conv2d_gradients(g, x, weight, stride, padding, required):
    """Gradients of input, weight and bias, as far as `required` (three bools), else None."""
    own_bias = required[2] and g.device.type == "cuda"
    mask = [*required[:2], required[2] and not own_bias]
    d_x, d_weight, d_bias = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, (1, 1), False, (0, 0), 1, mask
    )
    return d_x, d_weight, channel_sums(g) if own_bias else d_bias


def channel_sums(x):
    """(b, c, h, w) -> (c,): the sum over a channels_last map as a matrix product.

    PyTorch's sum over that many rows uses few multiprocessors of a GPU.
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
        required, d_x, gradients = _required(ctx), None, [None, None, None]
        if torch.is_grad_enabled() and required[0]:
            d_x = _Conv2dInputGradient.apply(g, x, weight, ctx.stride, ctx.padding)
            required[0] = False
        if any(required):
            gradients = _conv2d_gradients(g, x, weight, ctx.stride, ctx.padding, required)
        return d_x if d_x is not None else gradients[0], *gradients[1:], None, None


class _Conv2dInputGradient(torch.autograd.Function):
    """Linear in g and in the weight; only the shape of x matters."""

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
            weight_only = [False, True, False]
            _, d_weight, _ = _conv2d_gradients(g, v, weight, ctx.stride, ctx.padding, weight_only)
        return d_g, None, d_weight, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, count, compiled):
        with torch.autocast(x.device.type, enabled=False):  # on CUDA autocast would use float32
            if compiled:
                rows = x.flatten(1), weight.flatten(), bias.flatten()
                y, mean, rstd = _run_compiled(_norm_forward, *rows, eps, count)
                y = y.view_as(x)
            else:
                y, mean, rstd = torch.native_layer_norm(x, x.shape[1:], weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.eps, ctx.count, ctx.compiled, ctx.inputs_only = eps, count, compiled, False
        return y

    @staticmethod
    def backward(ctx, g):
        x, weight, bias, mean, rstd = ctx.saved_tensors
        norm, options, required = (x, weight, mean, rstd), (ctx.count, ctx.compiled), _required(ctx)
        if not torch.is_grad_enabled():
            return *_layer_norm_gradients(g, *norm, bias, *options, required), None, None, None
        if any(required[1:]) and ctx.count < weight.numel():
            raise NotImplementedError("use input_gradient to differentiate this twice")
        d_x = d_weight = d_bias = None
        if required[0]:
            d_x = _LayerNormInputGradient.apply(g, *norm, *options)
        if required[1]:
            d_weight = (g * F.layer_norm(x, x.shape[1:], eps=ctx.eps)).sum(0)
        if required[2]:
            d_bias = g.sum(0)
        return d_x, d_weight, d_bias, None, None, None


def _layer_norm_gradients(g, x, weight, mean, rstd, bias, count, compiled, required):
    """Gradients of input, weight and bias, as far as `required`. bias: None if not required."""
    with torch.autocast(x.device.type, enabled=False):
        if not compiled:
            return torch.ops.aten.native_layer_norm_backward(
                g.contiguous(), x, x.shape[1:], mean, rstd, weight, bias, required
            )
        rows = (g.flatten(1), x.flatten(1), weight.flatten(), mean, rstd, count)
        if not any(required[1:]):
            return _run_compiled(_norm_input_gradient, *rows).view_as(x), None, None
        d_x, d_weight, d_bias = _run_compiled(_norm_gradients, *rows)
        return d_x.view_as(x), d_weight.view_as(weight), d_bias.view_as(weight)


def _norm_forward(x, weight, bias, eps, count):
    """x: (b, n); weight, bias: (n,); count: entries without padding -> output like x, and mean and
    1 / std, (b, 1).
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.sum(1, keepdim=True) / count
    centered = wide - mean
    squares = centered.square().sum(1, keepdim=True) - (x.shape[1] - count) * mean.square()
    rstd = (squares / count + eps).rsqrt()
    return (centered * rstd * weight + bias).to(x.dtype), mean, rstd


def _norm_input_gradient(g, x, weight, mean, rstd, count):
    """g, x: (b, n); weight: (n,); mean, rstd: (b, 1) -> (b, n), see _LayerNormInputGradient."""
    z = (x.to(mean.dtype) - mean) * rstd
    h = g.to(mean.dtype) * weight
    by_one, by_z = (sums.sum(1, keepdim=True) / count for sums in (h, h * z))
    return (rstd * (h - by_one - z * by_z)).to(x.dtype)


def _norm_gradients(g, x, weight, mean, rstd, count):
    """_norm_input_gradient and the gradients of weight and bias, (n,)."""
    d_x = _norm_input_gradient(g, x, weight, mean, rstd, count)
    g, z = g.to(mean.dtype), (x.to(mean.dtype) - mean) * rstd
    return d_x, (g * z).sum(0).to(weight.dtype), g.sum(0).to(weight.dtype)


class _LayerNormInputGradient(torch.autograd.Function):
    """s (h - mean(h) - z mean(h z)), where h = g * weight, z = (x - mean(x)) s, s = 1 / std(x).

    mean and rstd are functions of x; the derivative with respect to x includes them.
    """

    @staticmethod
    def forward(ctx, g, x, weight, mean, rstd, count, compiled):
        ctx.save_for_backward(g, x, weight, mean, rstd)
        ctx.count, ctx.compiled = count, compiled
        input_only = [True, False, False]
        return _layer_norm_gradients(g, x, weight, mean, rstd, None, count, compiled, input_only)[0]

    @staticmethod
    def backward(ctx, v):
        if torch.is_grad_enabled():
            raise NotImplementedError("layer_norm has no third derivative")
        g, x, weight, mean, rstd = ctx.saved_tensors
        rows = [t.flatten(1) for t in (v, g, x)]
        norm = weight.flatten(), mean.flatten(1), rstd.flatten(1), ctx.count
        with torch.autocast(x.device.type, enabled=False):
            if ctx.compiled:
                gradients = _run_compiled(_layer_norm_second, *rows, *norm)
            else:
                gradients = _in_chunks(*rows, *norm)
        gradients = (d.view_as(t) for d, t in zip(gradients, (g, x, weight), strict=True))
        return *gradients, None, None, None, None


def _in_chunks(v, g, x, weight, mean, rstd, count):
    """_layer_norm_second on the CPU for chunks of images that fit into its cache."""
    images = max(1, 2**20 // weight.numel() if x.device.type == "cpu" else len(x))
    d_g, d_x, d_weight = torch.empty_like(g), torch.empty_like(x), torch.zeros_like(weight)
    for start in range(0, len(x), images):
        chunk = slice(start, start + images)
        d_g[chunk], d_x[chunk], d_weight_of_chunk = _layer_norm_second(
            v[chunk], g[chunk], x[chunk], weight, mean[chunk], rstd[chunk], count
        )
        d_weight += d_weight_of_chunk
    return d_g, d_x, d_weight


def _layer_norm_second(v, g, x, weight, mean, rstd, count):
    """Gradients of <v, input gradient> with respect to g, x and weight, in the types of these.

    v, g, x: (b, n); weight: (n,); mean, rstd: (b, 1); count: entries without padding. With
    h = g weight, s = rstd, z = (x - mean) s and m(.) the mean over a row, the input gradient is
    s (h - m(h) - z m(h z)), and the derivatives of <v, .> are
        h: s (v - m(v) - z m(v z))
        x: -s^2 (m(hz) (v - m(v)) + m(vz) (h - m(h)) + z (m(vh) - m(v) m(h) - 3 m(hz) m(vz)))
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    g_type, weight_type = g.dtype, weight.dtype
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
    return d_h.mul_(weight).to(g_type), d_x.to(x.dtype), d_weight.to(weight_type)
