"""The PyTorch side of bench/training.ts: runs a network that it wrote to a file, on request. Not meant to be called by hand."""
import json
import resource
import sys
import time

import numpy
import torch
import torch.nn.functional as F

description = json.load(open(sys.argv[1]))
channels_last = sys.argv[2] == "channels_last"
torch.set_num_threads(int(sys.argv[3]))
flat = torch.from_numpy(numpy.fromfile(description["weights"], dtype=numpy.float32))
layout = torch.channels_last if channels_last else torch.contiguous_format

values, trained = {}, []
for name, shape, offset, is_trained in description["tensors"]:
    size = int(numpy.prod(shape))
    value = flat[offset : offset + size].reshape(shape).clone()
    if len(shape) == 4:
        value = value.contiguous(memory_format=layout)
    if is_trained:
        value.requires_grad_()
        trained.append(value)
    values[name] = value
image = values["image"]
label = torch.tensor(description["label"])
uses = {}
for node in description["nodes"]:
    for name in node["inputs"]:
        uses[name] = uses.get(name, 0) + 1


def compile_node(node):
    """A function that reads and writes a dictionary of values."""
    kind, inputs, output, a = node["opType"], node["inputs"], node["output"], node["attributes"]
    x = inputs[0]
    if kind == "Conv":
        w, b = inputs[1], inputs[2] if len(inputs) > 2 else None
        stride, padding, groups = a["strides"], a["pads"][:2], a["group"]
        return lambda v: F.conv2d(v[x], v[w], v[b] if b else None, stride, padding, 1, groups)
    if kind == "BatchNormalization":
        _, scale, shift, mean, variance = inputs
        return lambda v: F.batch_norm(v[x], v[mean], v[variance], v[scale], v[shift], True, 0.1, 1e-5)
    if kind == "Relu":
        in_place = uses[x] == 1
        return lambda v: F.relu(v[x], in_place)
    if kind == "Add":
        return lambda v: v[x] + v[inputs[1]]
    if kind == "Concat":
        return lambda v: torch.cat([v[name] for name in inputs], 1)
    if kind == "AveragePool":
        return lambda v: F.avg_pool2d(v[x], a["kernel_shape"], a["strides"])
    if kind == "GlobalAveragePool":
        return lambda v: v[x].mean((2, 3), keepdim=True)
    if kind == "Flatten":
        return lambda v: v[x].flatten(1)
    if kind == "Gemm":
        return lambda v: F.linear(v[x], v[inputs[1]], v[inputs[2]])
    raise NotImplementedError(kind)


layers = [(node["output"], compile_node(node)) for node in description["nodes"]]
decayed = [p for p in trained if p.dim() >= 2]
others = [p for p in trained if p.dim() < 2]
optimizer = torch.optim.SGD(
    [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0}],
    lr=0.01,
    momentum=0.9,
    foreach=True,
)


def step():
    optimizer.zero_grad(set_to_none=True)
    v = dict(values)
    for output, layer in layers:
        v[output] = layer(v)
    loss = F.cross_entropy(v["logits"], label)
    del v
    loss.backward()
    optimizer.step()
    return float(loss)


for line in sys.stdin:
    times, cpu_times, losses = [], [], []
    for _ in range(int(line)):
        start, cpu = time.perf_counter(), time.process_time()
        losses.append(step())
        times.append((time.perf_counter() - start) * 1e3)
        cpu_times.append((time.process_time() - cpu) * 1e3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": times, "cpuMs": cpu_times, "losses": losses, "rssMiB": peak}), flush=True)
