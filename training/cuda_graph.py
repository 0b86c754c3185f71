"""A training step recorded once as a CUDA graph and then replayed."""

import sys

import torch

WARM_UP = 3  # calls before the recording, in which libraries choose their kernels


class Recorded:
    """A function of tensors that a CUDA device records at its fourth call and replays then.

    A step is some thousands of small kernels, and starting each from Python takes longer than it
    runs. The recording starts all of them at once; they are the same kernels on the same memory.
    So the function must leave every decision to the device, reading no value back, and may change
    only tensors that stay where they are: weights, gradients, states of optimizers.

    update = Recorded(update, enabled=device.type == "cuda")

    A call copies the arguments to where the recording reads them. What it returns is overwritten
    by the next call. Arguments of other shapes, as of a last, smaller batch, and everything where
    not `enabled`, go to the plain function. So does everything, after a notice, where CUDA refuses
    the recording.
    """

    def __init__(self, function, enabled):
        self.function, self.enabled = function, enabled
        self.graph = self.shapes = None
        self.calls = 0  # in a row with these shapes
        self.stream = torch.cuda.Stream() if enabled else None

    def __call__(self, *tensors):
        if not self.enabled:
            return self.function(*tensors)
        shapes = [(t.shape, t.dtype) for t in tensors]
        if self.graph is None:
            self.calls = self.calls + 1 if shapes == self.shapes else 1
            self.shapes = shapes
            if self.calls > WARM_UP:
                self._record(tensors)
        if self.graph is None or shapes != self.shapes:
            return self._aside(tensors)
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        return self.outputs

    def _aside(self, tensors):
        """The plain call, on the stream of the recording, so that the two keep their order."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(*tensors)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def _record(self, tensors):
        self.inputs = [t.clone() for t in tensors]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.outputs = self.function(*self.inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a recording that fails at its end leaves its own
            first = error.__context__ or error
            reason = (str(first).splitlines() or [repr(first)])[0]
            print(f"note: no CUDA graph of {self.function.__name__}: {reason}", file=sys.stderr)
            self.enabled = False
            return
        self.graph = graph
