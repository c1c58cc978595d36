import { datatypeOf } from '../../repository/datatypes.ts';
import type { TensorSpec } from '../../repository/types.ts';
import type { TaskTensors } from '../server-adapter.ts';
import { decide, type Fleet, type Node } from './state.ts';

/**
 * Finds out whether what a server has begun to serve is what the repository means by its name: a folder of another network under the same
 * task would otherwise answer clients, or refuse them all. Each version is looked at once.
 */
export async function checkTensors(fleet: Fleet, node: Node, task: string, version: number): Promise<void> {
  const { watch, member } = node;
  if (watch.server.tensors === undefined || node.checked.get(task) === version) return;
  const manifest = fleet.members.tasks.find((each) => each.manifest.task === task)!.manifest;
  let difference: string | undefined;
  try {
    const found = await watch.server.tensors(task, fleet.signal);
    difference =
      found &&
      (differenceOf('input', manifest.inputs, found.inputs) ??
        differenceOf('output', manifest.outputs, found.outputs));
  } catch {
    // It is on its way out, or does not answer: the next look tells. Nothing about one server may end the loop.
    return;
  }
  node.checked.set(task, version);
  if (difference === undefined) {
    node.strangers.delete(task);
    return;
  }
  node.strangers.set(task, difference);
  decide(fleet, {
    kind: 'server',
    server: member.name,
    task,
    text: `${member.name} serves another network as ${task}: ${difference}. It gets no requests for it.`,
  });
}

/** By name, type and the sizes that both know; the first size, which may be a batch, is left out. */
function differenceOf(
  kind: 'input' | 'output',
  expected: readonly TensorSpec[],
  found: TaskTensors['inputs'],
): string | undefined {
  for (const { name, dtype, shape } of expected) {
    const own = found.find((tensor) => tensor.name === name);
    if (own === undefined) return `it has no ${kind} '${name}'`;
    if (own.datatype !== datatypeOf(dtype))
      return `its ${kind} '${name}' is ${own.datatype}, and the repository's ${datatypeOf(dtype)}`;
    const sizes = own.shape.map(Number);
    // A server that adds the batch itself may leave it out here.
    const [a, b] = [shape.slice(1), sizes.length === shape.length ? sizes.slice(1) : sizes];
    if (a.length !== b.length || a.some((size, axis) => size > 0 && b[axis]! > 0 && size !== b[axis]))
      return `its ${kind} '${name}' has shape [${sizes.join(',')}], and the repository's [${shape.join(',')}]`;
  }
  return undefined;
}
