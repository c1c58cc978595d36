import { BonsaiError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import { describeNode } from '../../graph/attributes.ts';
import type { GraphBuilder } from '../../graph/build.ts';
import type { Node, ValueType } from '../../graph/model.ts';
import { MissingRuleError } from '../../ops/errors.ts';
import type { OpRecord } from '../../ops/op.ts';
import { recordFor } from '../../ops/table.ts';

/** A forward pass that was written into a builder, and what its backward pass has to know about it. */
export interface Forward {
  /** In topological order; their values exist in the builder under their own names. */
  readonly nodes: readonly Node[];
  readonly opset: number;
  readonly types: ReadonlyMap<string, ValueType>;
  readonly constants: ReadonlyMap<string, Tensor>;
  /** What the training forms of nodes left for their gradient rules. */
  readonly kept: ReadonlyMap<Node, ReadonlyMap<string, string>>;
}

/**
 * Reverse-mode differentiation: adds to the builder the nodes that carry gradients from `seeds` back to `wanted`.
 * Where a value is used more than once the gradients add up. Nothing is computed for values that lead to no wanted
 * one: the first convolution of a network has no gradient towards the image.
 * @param seeds gradient of the objective with respect to some values of the forward pass, by their name
 * @param wanted values (parameters) whose gradients to compute
 * @returns the names of the gradients, by the wanted value's name; a value without influence is missing
 * @throws MissingRuleError where a gradient would have to pass an operator that has no rule
 */
export function addBackward(
  build: GraphBuilder,
  forward: Forward,
  seeds: ReadonlyMap<string, string>,
  wanted: Iterable<string>,
  records: (node: Node) => OpRecord | undefined = recordFor,
): Map<string, string> {
  const targets = new Set(wanted);
  const active = valuesLeadingFrom(forward.nodes, targets);
  const arrived = new Map<string, string[]>();
  // A gradient has the type of its value: who lowers the step need not infer it.
  const arrive = (name: string, gradient: string) => {
    const type = forward.types.get(name);
    if (type !== undefined) build.describe(gradient, type);
    const parts = arrived.get(name);
    if (parts === undefined) arrived.set(name, [gradient]);
    else parts.push(gradient);
  };
  for (const [name, gradient] of seeds) arrive(name, gradient);
  const total = (name: string): string | undefined => {
    const parts = arrived.get(name);
    if (parts === undefined) return undefined;
    const sum = parts.reduce((a, b) => build.op('Add', [a, b]));
    arrived.set(name, [sum]);
    return sum;
  };

  for (const node of forward.nodes.toReversed()) {
    if (!node.inputs.some((name) => active.has(name))) continue;
    const dy = node.outputs.map((name) => (name === '' ? undefined : total(name)));
    if (dy.every((gradient) => gradient === undefined)) continue;
    const gradient = records(node)?.gradient;
    if (gradient === undefined) throw new MissingRuleError(node);
    const results = gradient({
      node,
      opset: forward.opset,
      build,
      dy,
      needs: (input) => active.has(node.inputs[input] ?? ''),
      x: (input) => node.inputs[input] ?? '',
      y: (output) => node.outputs[output] ?? '',
      xShape: (input) => staticShape(forward, node, node.inputs[input]),
      yShape: (output) => staticShape(forward, node, node.outputs[output]),
      constant: (input) => forward.constants.get(node.inputs[input] ?? ''),
      kept: (key) => keptValue(forward, node, key),
    });
    for (const [input, name] of node.inputs.entries()) {
      const part = results[input];
      if (part !== undefined && active.has(name)) arrive(name, part);
    }
  }

  const gradients = new Map<string, string>();
  for (const name of targets) {
    const gradient = total(name);
    if (gradient !== undefined) gradients.set(name, gradient);
  }
  return gradients;
}

/** The wanted values and all that are computed from them. */
function valuesLeadingFrom(nodes: readonly Node[], targets: ReadonlySet<string>): Set<string> {
  const active = new Set(targets);
  for (const node of nodes) {
    if (!node.inputs.some((name) => active.has(name))) continue;
    for (const output of node.outputs) if (output !== '') active.add(output);
  }
  return active;
}

/** @throws BonsaiError `invalid_graph` where a size is not known */
export function staticShape(
  forward: Pick<Forward, 'types'>,
  node: Node,
  name: string | undefined,
): readonly number[] {
  const shape = forward.types.get(name ?? '')?.shape;
  if (shape?.every((size) => typeof size === 'number')) return shape;
  const found = shape === undefined ? 'unknown' : `[${shape.map((size) => size ?? '?').join(', ')}]`;
  throw new BonsaiError(
    'invalid_graph',
    `${describeNode(node)}: training needs every size, but the shape of "${name ?? ''}" is ${found}. ` +
      'Give the size of the input, or state the shape of this value in the file.',
  );
}

function keptValue(forward: Forward, node: Node, key: string): string {
  const value = forward.kept.get(node)?.get(key);
  if (value === undefined) {
    throw new BonsaiError(
      'invalid_graph',
      `${describeNode(node)}: its gradient needs "${key}" of its training form, which was not written.`,
    );
  }
  return value;
}
