"""Record the first steps of a case under the device's profiler, on every rank."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from neoxlib.inference.decode import decode
from neoxlib.inference.sampling import Sampling
from neoxlib.inference.timing import Work
from neoxlib.machine.runtime import profiler

STEPS = 4  # traced: one prefill, three of decode
PHASES = ("prefill", "decode")
COLLECTIVES = ("all_reduce", "gather", "all_gather", "broadcast")  # the collectives of a group
LAYERS = {"stages": "layers (compiled)", "head": "head (compiled)"}  # calls of the compiled path


def record(work: Work, folder: Path) -> None:
    """Run a case's first steps, after its warm-up, under the profiler; write to `folder`.

    `folder` gets each rank's trace.
    """
    from torch.profiler import record_function

    work.warm_up()
    model = work.deep.rewind() if work.deep else work.model
    sampling = Sampling(max_new_tokens=min(STEPS, work.case.output_len))
    with (
        profiler(work.weight.device, folder, f"rank{work.group.rank}"),
        _named_calls(work, record_function),
    ):
        steps = decode(model, work.prompts, sampling, work.limits)
        work.group.barrier()  # profilers do not start at the same moment
        for number in range(sampling.max_new_tokens):
            with record_function(PHASES[min(number, 1)]):
                next(steps)
    work.group.barrier()


@contextmanager
def _named_calls(work: Work, record_function: Callable) -> Iterator[None]:
    """Mark calls that PyTorch's profiler does not see: the group's and the compiled model's."""
    executor = work.model.executor
    places = [(work.group, name, lambda *_, name=name: name) for name in COLLECTIVES]
    if hasattr(executor, "_call"):  # an NPU's has none: the profiler sees its operators
        places.append((executor, "_call", lambda name, *_: LAYERS.get(name, name)))
    with ExitStack() as stack:
        for owner, name, label in places:
            stack.enter_context(_marked(owner, name, label, record_function))
        yield


@contextmanager
def _marked(
    owner: Any, name: str, label: Callable[..., str], record_function: Callable
) -> Iterator[None]:
    plain = getattr(owner, name)
    own = name in vars(owner)

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(label(*args)):
            return plain(*args, **kwargs)

    setattr(owner, name, marked)
    try:
        yield
    finally:
        setattr(owner, name, plain) if own else delattr(owner, name)
