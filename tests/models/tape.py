"""What a CUDA graph does, on a CPU: operations are kept with the very tensors they met, and done again on those.

A replay reads no Python: a number that was computed on the host is the one of the recording, and a tensor that
took the place of another is not seen. So it fails where a graph would, and only there.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in tensors_in(each)]
    if isinstance(value, dict):
        return tensors_in(list(value.values()))
    return []


def same_memory(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


def address(tensor):
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        met = {address(tensor) for tensor in tensors_in([args, kwargs])}
        # Another handle of the same memory: a parameter that is pointed elsewhere later does not take it along.
        args, kwargs = tree_map(same_memory, args), tree_map(same_memory, kwargs)
        fresh = [tensor for tensor in tensors_in(out) if address(tensor) not in met]
        if fresh or func._schema.is_mutable:  # what only looks at a tensor another way needs no doing again
            self.operations.append((func, args, kwargs, out))
        return out

    @torch.inference_mode()
    def replay(self):
        for func, args, kwargs, kept in self.operations:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tensors_in(kept), tensors_in(again), strict=True):
                    old.copy_(new)


def record(batch):
    """In place of `FixedBatch._record`."""
    kept = {name: tensor.clone() for name, tensor in batch._state.items()}
    tape = Tape()
    with tape:
        batch._advance()
    for name, tensor in kept.items():
        batch._state[name].copy_(tensor)
    return tape
