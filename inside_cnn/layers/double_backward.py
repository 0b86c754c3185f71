"""Convolution and LayerNorm with fast second derivatives.

The gradient penalty differentiates a gradient. PyTorch can do that for its own layers, but slowly:
the weight gradient of a convolution's input gradient becomes a convolution with the batch as its
channels and a whole feature map as its kernel, and LayerNorm's is put together from some thirty
passes over the map. Here both are derived by hand; values and gradients are the same function.

    score = ...                                    # made of conv2d and layer_norm, and other layers
    gradient = input_gradient(score.sum(), images, create_graph=True)
    (gradient.norm() - 1).square().backward()      # reaches the weights

A third derivative of layer_norm raises NotImplementedError.
"""

import contextlib
import sys

import torch
import torch.nn.functional as F

_compiled = {}  # a cache, function: its compiled form, or itself if torch.compile failed


def compile_works(device):
    """Whether torch.compile can make layer_norm's kernels on the device; if not, prints a notice.

    For GPUs: PyTorch's own kernels give each image, a long row, to a single multiprocessor.
    """
    _compiled.clear()  # a failure may have passed
    x, affine = torch.zeros(2, 8, device=device), torch.zeros(8, device=device)
    _run_compiled(_norm_forward, x, affine, affine, 1e-5, 8)
    return _compiled[_norm_forward] is not _norm_forward


def _run_compiled(function, *args):
    """function(*args), compiled. If that fails, prints a notice and runs it uncompiled."""
    # Detached: torch.compile would compile again for tensors with another place in the graph.
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
    autograd asks a Python function for all its gradients, needed or not. While it runs, no other
    thread may run a backward pass through the same graph.
    """
    with _inputs_only(output):
        (gradient,) = torch.autograd.grad(output, inputs, create_graph=create_graph)
    return gradient


@contextlib.contextmanager
def _inputs_only(output):
    """Inside the context, the layers that made `output` compute no gradient of a weight.

    The flag is set on the nodes of its graph, each of which is the `ctx` that its backward gets. A
    flag of the calling thread would not do: on CUDA autograd runs the pass in its own thread.
    """
    changed, seen, ahead = [], set(), [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]
        if getattr(node, "inputs_only", None) is False:  # True: an outer pass resets it
            node.inputs_only = True
            changed.append(node)
    try:
        yield
    finally:
        for node in changed:
            node.inputs_only = False


def conv2d(x, weight, bias, stride=(1, 1), padding=(0, 0)):
    """F.conv2d, in autocast's precision where that is on.

    x: (b, c, h, w); weight: (out, c, k, k); bias: (out,) -> (b, out, h', w').
    """
    x, weight, bias = _autocast(x, weight, bias)
    return _Conv2d.apply(x, weight, bias, stride, padding)


def layer_norm(x, weight, bias, eps=1e-5, count=None, compiled=False):
    """F.layer_norm over all dimensions but the first; statistics in float32, output like x.

    x: (b, ...) of any float type; weight, bias: (...). CUDA's own kernels take one type only:
    there the affine map, and its gradient, are rounded to that of x, unless `compiled`: then
    torch.compile makes the kernels, see compile_works.
    count: how many entries of a row count, None for all; the others must be 0 in x, weight and
    bias. They are then 0 in the output, and have any gradient.
    Raises ValueError for a count without `compiled`.
    """
    if not compiled and count not in (None, weight.numel()):
        raise ValueError("count needs compiled=True")
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
    """Whether the gradients of input, weight and bias are to be computed."""
    of_input, *of_weights = ctx.needs_input_grad[:3]
    return [of_input, *(needed and not ctx.inputs_only for needed in of_weights)]


def _conv2d_gradients(g, x, weight, stride, padding, required):
    """The `required` ones of input, weight and bias (three bools); None for the others."""
    own_bias = required[2] and g.device.type == "cuda"
    mask = [*required[:2], required[2] and not own_bias]
    d_x, d_weight, d_bias = torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, (1, 1), False, (0, 0), 1, mask
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
        required, d_x = _required(ctx), None
        if torch.is_grad_enabled() and required[0]:
            d_x = _Conv2dInputGradient.apply(g, x, weight, ctx.stride, ctx.padding)
            required[0] = False
        gradients = [None, None, None]
        if any(required):
            gradients = _conv2d_gradients(g, x, weight, ctx.stride, ctx.padding, required)
        return d_x if d_x is not None else gradients[0], *gradients[1:], None, None


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
            weight_only = [False, True, False]
            _, d_weight, _ = _conv2d_gradients(g, v, weight, ctx.stride, ctx.padding, weight_only)
        return d_g, None, d_weight, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, count, compiled):
        with torch.autocast(x.device.type, enabled=False):  # on CUDA it would cast to float32
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
            raise NotImplementedError("input_gradient is the way to differentiate this twice")
        d_x = d_weight = d_bias = None
        if required[0]:
            d_x = _LayerNormInputGradient.apply(g, *norm, *options)
        if required[1]:
            d_weight = (g * F.layer_norm(x, x.shape[1:], eps=ctx.eps)).sum(0)
        if required[2]:
            d_bias = g.sum(0)
        return d_x, d_weight, d_bias, None, None, None


def _layer_norm_gradients(g, x, weight, mean, rstd, bias, count, compiled, required):
    """The `required` ones of input, weight and bias. bias: may be None if its own is not."""
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
    """x: (b, n); weight, bias: (n,) -> output like x, mean and 1 / std, (b, 1).

    count: entries of a row that count; the others are 0.
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
    """The same, and the gradients of weight and bias, (n,)."""
    d_x = _norm_input_gradient(g, x, weight, mean, rstd, count)
    g, z = g.to(mean.dtype), (x.to(mean.dtype) - mean) * rstd
    return d_x, (g * z).sum(0).to(weight.dtype), g.sum(0).to(weight.dtype)


class _LayerNormInputGradient(torch.autograd.Function):
    """s (h - mean(h) - z mean(h z)), where h = g * weight, z = (x - mean(x)) s, s = 1 / std(x).

    mean and rstd are functions of x; the derivative with respect to x counts them in.
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
    """_layer_norm_second for a few images at a time on the CPU, so that they stay in its cache."""
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

    v, g, x: (b, n); weight: (n,); mean, rstd: (b, 1); count: entries of a row that count. With h
    and z as above and m(.) the mean over a row, the input gradient is s (h - m(h) - z m(h z)), and
    <v, .> differentiates to
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
