import { numbersOf } from '../../base/tensor.ts';
import { intAttribute } from '../../graph/attributes.ts';
import type { Node } from '../../graph/model.ts';
import { type Channels, channelsOf } from './channels.ts';
import type { Values } from './values.ts';

/** Branches side by side: whole blocks follow each other, each branch with its own padding. */
export function concatenate(values: Values, node: Node): boolean {
  const isChannelwise = node.inputs.every((name) => values.isImage(name)) && axisOfImage(node, 1) === 1;
  if (!isChannelwise || !node.inputs.some((name) => values.isBlocked(name))) return false;
  const parts = node.inputs.map((name) => values.blocked(name));
  const joined = values.build.op(
    'Concat',
    parts.map(({ value, channels }, i) => blocks(values, value, values.shape(node.inputs[i]!), channels)),
    { axis: 1 },
  );
  const channels = channelsOf(
    parts.flatMap((part) => part.channels.segments),
    values.block,
  );
  const [batch, , height, width] = values.shape(node.inputs[0]!) as [number, number, number, number];
  values.setParts(node.outputs[0]!, node.inputs);
  values.setBlocked(node.outputs[0]!, values.view(joined, [batch, channels.padded, height, width]), channels);
  return true;
}

/** Cuts between segments; another cut is left to the plain layout. */
export function split(values: Values, node: Node): boolean {
  const x = node.inputs[0]!;
  const sizes = values.constant(node.inputs[1] ?? '');
  if (!values.isImage(x) || !values.isBlocked(x) || axisOfImage(node, 0) !== 1 || sizes === undefined) {
    return false;
  }
  const channels = values.channels(x);
  const parts = segmentsOfParts(channels, numbersOf(sizes));
  if (parts === undefined) return false;
  const shape = values.shape(x);
  const [batch, , height, width] = shape as [number, number, number, number];
  const cut = values.build.ops(
    'Split',
    [
      blocks(values, values.blocked(x).value, shape, channels),
      values.build.ints(parts.map(({ padded, block }) => padded / block)),
    ],
    { axis: 1 },
    { outputs: parts.length },
  );
  for (const [i, part] of parts.entries()) {
    values.setBlocked(node.outputs[i]!, values.view(cut[i]!, [batch, part.padded, height, width]), part);
  }
  return true;
}

/** A blocked value with its blocks as axis 1. */
function blocks(values: Values, value: string, shape: readonly number[], channels: Channels): string {
  const [batch, , height, width] = shape as [number, number, number, number];
  return values.view(value, [batch, channels.padded / channels.block, height * width, channels.block]);
}

function segmentsOfParts(channels: Channels, sizes: readonly number[]): Channels[] | undefined {
  const left = [...channels.segments];
  const parts: Channels[] = [];
  for (const size of sizes) {
    const own: number[] = [];
    let taken = 0;
    while (taken < size) {
      const next = left.shift();
      if (next === undefined) return undefined;
      own.push(next);
      taken += next;
    }
    if (taken !== size || own.length === 0) return undefined;
    parts.push(channelsOf(own, channels.block));
  }
  return left.length === 0 ? parts : undefined;
}

function axisOfImage(node: Node, fallback: number): number {
  const axis = intAttribute(node, 'axis', fallback);
  return axis < 0 ? axis + 4 : axis;
}
