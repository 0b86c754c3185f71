"""A training step captured once as a CUDA graph and then replayed."""

import sys

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

WARM_UP = 3  # calls before the capture, in which libraries choose their kernels


class CapturedStep:
    """A function of tensors that a CUDA device captures at its fourth call and replays then.

    A step has thousands of small kernels, and launching each from Python takes longer than running
    it. A graph launches all of them at once, on the same memory. So the function must not read
    values back, and may change only tensors that keep their memory: weights, gradients, states of
    optimizers.

    An argument is a tensor, a tuple of arguments, or None. A call copies the tensors to the
    graph's inputs; the next call overwrites its outputs. The plain function runs if not `enabled`,
    if the shapes or types differ from those captured, as those of a smaller last batch do, and,
    after a notice, if CUDA refuses the capture.
    capturer: CudaCapturer() if None.
    """

    def __init__(self, function, enabled, capturer=None):
        self.function, self.enabled = function, enabled
        self.capturer = CudaCapturer() if enabled and capturer is None else capturer
        self.graph = self.form = None
        self.calls = 0  # consecutive ones with arguments of this form

    def __call__(self, *args):
        if not self.enabled:
            return self.function(*args)
        form = [None if x is None else (x.shape, x.dtype) for x in tree_leaves(args)]
        if self.graph is None:
            self.calls = self.calls + 1 if form == self.form else 1
            self.form = form
            if self.calls > WARM_UP:
                self._capture(args)
        if self.graph is None or form != self.form:
            return self.capturer.call(self.function, *args)
        for target, tensor in zip(self.inputs, tree_leaves(args), strict=True):
            if tensor is not None:
                target.copy_(tensor)
        self.graph.replay()
        return self.outputs

    def _capture(self, args):
        args = tree_map_only(torch.Tensor, torch.clone, args)
        self.inputs = tree_leaves(args)
        try:
            self.graph, self.outputs = self.capturer.capture(self.function, *args)
        except RuntimeError as error:
            first = error.__context__ or error  # CUDA's error at the end hides the cause
            name, reason = self.function.__name__, str(first).partition("\n")[0]
            print(f"note: no CUDA graph of {name}: {reason}", file=sys.stderr)
            self.enabled = False


class CudaCapturer:
    """Captures a function's work on the current CUDA device, on a separate stream."""

    def __init__(self):
        self.stream = torch.cuda.Stream()

    def call(self, function, *args):
        """function(*args), on the stream of the capture, so that both are executed in order."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = function(*args)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def capture(self, function, *args):
        """(graph, outputs): graph.replay() executes function(*args) and fills the outputs.

        A capture executes nothing. Raises RuntimeError if CUDA refuses.
        """
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                outputs = function(*args)
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails at its end does not
        return graph, outputs
