"""A training step captured once as a CUDA graph and then replayed."""

import contextlib
import functools
import sys
import threading

import torch

WARM_UP = 3  # calls before the capture, in which libraries choose their kernels

_capturing = threading.local()  # .cut: what `outside` hands its action to, while one captures


def outside(action):
    """Do what no graph holds, such as talk between processes, between kernels before and after.

    While a step is captured, it is cut in two here: the action, a function without arguments, is
    done at every replay, between the two graphs, and not yet now. So it may only change tensors,
    those that were there before or came out of the first graph, in place: whatever else it has from
    around it stays for ever as it is now.
    """
    cut = getattr(_capturing, "cut", None)
    if cut is None:
        action()
    else:
        cut(action)


class CapturedStep:
    """A function of tensors that a CUDA device captures at its fourth call and replays then.

    A step is some thousands of small kernels, and starting each from Python takes longer than it
    runs. The graph starts all of them at once; they are the same kernels on the same memory. So the
    function must leave every decision to the device, reading no value back, and may change only
    tensors that stay where they are: weights, gradients, states of optimizers. What it does by
    `outside` happens at each replay, between graphs.

    update = CapturedStep(update, enabled=device.type == "cuda")

    An argument is a tensor, a NamedTuple of such arguments, or None; by place or by name. A call
    copies the tensors to where the graph reads them. What it returns is overwritten by the next
    call. Arguments of another form (other shapes, as of a last, smaller batch, other types, None in
    a tensor's place), and everything where not `enabled`, go to the plain function. So does
    everything, after a notice, where CUDA refuses the capture.
    capturer: what captures and runs beside the graph, CUDA's own where it is None.
    Raises TypeError for another argument: the graph would repeat its first value for ever.
    """

    def __init__(self, function, enabled, capturer=None):
        self.function, self.enabled = function, enabled
        self.capturer = CudaCapturer() if enabled and capturer is None else capturer
        self.graph = self.form = None
        self.calls = 0  # in a row with arguments of this form

    def __call__(self, *args, **kwargs):
        names, values = list(kwargs), [*args, *kwargs.values()]
        form = [(type(value), _map_tensors(_shape_and_type, value)) for value in values], names
        if not self.enabled:
            return self.function(*args, **kwargs)
        if self.graph is None:
            self.calls = self.calls + 1 if form == self.form else 1
            self.form = form
            if self.calls > WARM_UP:
                self._capture(values, names)
        if self.graph is None or form != self.form:
            return self.capturer.call(functools.partial(self.function, *args, **kwargs))
        for place, tensor in zip(self.inputs, _tensors_in(values), strict=True):
            place.copy_(tensor)
        self.graph.replay()
        return self.outputs

    def _capture(self, values, names):
        values = [_map_tensors(torch.clone, value) for value in values]
        self.inputs = _tensors_in(values)
        by_place = len(values) - len(names)
        args, kwargs = values[:by_place], dict(zip(names, values[by_place:], strict=True))
        try:
            self.graph, self.outputs = self.capturer.capture(
                functools.partial(self.function, *args, **kwargs)
            )
        except RuntimeError as error:
            first = error.__context__ or error
            reason = (str(first).splitlines() or [repr(first)])[0]
            print(f"note: no CUDA graph of {_name_of(self.function)}: {reason}", file=sys.stderr)
            self.enabled = False


class CudaCapturer:
    """Captures what a function has the current CUDA device do, on a stream of its own."""

    def __init__(self):
        self.stream = torch.cuda.Stream()

    def call(self, function):
        """function(), on the stream of the capture, so that the two keep their order."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = function()
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def capture(self, function):
        """(graph, outputs): graph.replay() does what function() would and fills the outputs anew.

        Nothing is done yet. Raises RuntimeError where CUDA refuses.
        """
        graph, stream = CutGraph(self.stream), torch.cuda.current_stream()
        try:
            with graph:
                outputs = function()
        except RuntimeError:
            torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own
            raise
        return graph, outputs


class CutGraph:
    """CUDA graphs that share their memory, and actions between them; captured inside the context.

    parts: what a replay does one after the other: a graph's replay, an action, a graph's replay ...
    """

    def __init__(self, stream):
        self.stream, self.pool, self.parts = stream, torch.cuda.graph_pool_handle(), []
        self._graph = contextlib.ExitStack()

    def __enter__(self):
        self._begin_graph()
        _capturing.cut = self._cut
        return self

    def __exit__(self, *error):
        _capturing.cut = None
        return self._graph.__exit__(*error)

    def _cut(self, action):
        self._graph.close()
        self.parts.append(action)
        self._begin_graph()

    def _begin_graph(self):
        graph = torch.cuda.CUDAGraph()
        self._graph.enter_context(torch.cuda.graph(graph, pool=self.pool, stream=self.stream))
        self.parts.append(graph.replay)

    def replay(self):
        for part in self.parts:
            part()


def _map_tensors(transform, value):
    """`value`, a tensor, None or a NamedTuple of such values, with every tensor transformed."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return transform(value)
    if hasattr(value, "_fields"):
        return value._make(_map_tensors(transform, field) for field in value)
    raise TypeError(f"a step takes tensors, NamedTuples of tensors and None, not {value!r}")


def _tensors_in(values):
    tensors = []
    for value in values:
        _map_tensors(tensors.append, value)
    return tensors


def _shape_and_type(tensor):
    return tensor.shape, tensor.dtype


def _name_of(function):
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
