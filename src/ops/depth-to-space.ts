import { intAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { alongAxis, labelsAlong } from './channels.ts';
import { requiredType } from './dims.ts';
import { reshape, transpose } from './emit.ts';
import { ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';

/**
 * Moves blocks of b·b channels into space: [N, C·b², H, W] → [N, C, H·b, W·b]. In mode DCR channel (i·b + j)·C + c goes
 * to row i and column j of channel c's blocks, in mode CRD (pixel shuffle) channel (c·b + i)·b + j does.
 */
export const DepthToSpace = defineOp({
  schema: { name: 'DepthToSpace', since: [1, 11, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype }];
    const block = blockOf(node);
    const [batch, channels, height, width] = planes(node, shape);
    if (typeof channels === 'number' && channels % block ** 2 !== 0) {
      throw new ShapeError(node, 0, `has ${channels} channels, not a multiple of blocksize² ${block ** 2}`);
    }
    const times = (size: Dim, factor: number) => (typeof size === 'number' ? size * factor : null);
    return [
      { dtype, shape: [batch, times(channels, 1 / block ** 2), times(height, block), times(width, block)] },
    ];
  },
  gradient: (context) => [context.needs(0) ? depthFromSpace(context) : undefined],
  coupling: coupleDepthToSpace,
});

/** Moves blocks of b × b positions into channels: [N, C, H·b, W·b] → [N, b²·C, H, W], laid out as DepthToSpace's DCR. */
export const SpaceToDepth = defineOp({
  schema: { name: 'SpaceToDepth', since: [1, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype }];
    const block = blockOf(node);
    const [batch, channels, height, width] = planes(node, shape);
    const part = (size: Dim) => {
      if (typeof size === 'number' && size % block !== 0)
        throw new ShapeError(node, 0, `has spatial size ${size}, not a multiple of blocksize ${block}`);
      return typeof size === 'number' ? size / block : null;
    };
    const deep = typeof channels === 'number' ? channels * block ** 2 : null;
    return [{ dtype, shape: [batch, deep, part(height), part(width)] }];
  },
  gradient: ({ node, build, dy, needs }) => [
    needs(0) ? build.op('DepthToSpace', [dy[0]], { blocksize: blockOf(node), mode: 'DCR' }) : undefined,
  ],
  coupling(context) {
    const channels = context.xShape(0)?.[1];
    const times = blockOf(context.node) ** 2;
    if (typeof channels !== 'number') {
      freezeUnknown(context);
      return;
    }
    const labels = labelsAlong(context, 0, 1, channels);
    if (labels === undefined) return;
    const deep = Int32Array.from({ length: channels * times }, (_, i) => labels[i % channels]!);
    context.produce(0, alongAxis(deep, 1, 4));
  },
});

/** The b·b channels that become one go together, or space would have holes. */
function coupleDepthToSpace(context: CouplingContext): void {
  const channels = context.xShape(0)?.[1];
  if (typeof channels !== 'number') {
    freezeUnknown(context);
    return;
  }
  const labels = labelsAlong(context, 0, 1, channels);
  if (labels === undefined) return;
  const offsets = blockOf(context.node) ** 2;
  const count = channels / offsets;
  const isCrd = isColumnRowDepth(context.node);
  const at = (channel: number, offset: number) =>
    labels[isCrd ? channel * offsets + offset : offset * count + channel]!;
  const row = (offset: number) =>
    alongAxis(
      Int32Array.from({ length: count }, (_, channel) => at(channel, offset)),
      1,
      4,
    );
  let shallow = row(0);
  for (let offset = 1; offset < offsets; offset++) shallow = uniteLabels(context, shallow, row(offset));
  context.produce(0, shallow);
}

function freezeUnknown(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels !== undefined)
    context.freeze(labels.data, `meets a ${context.node.opType} of unknown channel count`);
}

function depthFromSpace({ node, build, dy, xShape }: GradientContext): string {
  const block = blockOf(node);
  const [batch, channels, height, width] = xShape(0) as [number, number, number, number]; // The shape rule saw rank 4.
  const split = reshape(build, dy[0]!, [batch, channels / block ** 2, height, block, width, block]);
  const order = isColumnRowDepth(node) ? [0, 1, 3, 5, 2, 4] : [0, 3, 5, 1, 2, 4];
  return reshape(build, transpose(build, split, order), xShape(0));
}

function isColumnRowDepth(node: Node): boolean {
  return stringAttribute(node, 'mode', 'DCR') === 'CRD';
}

function blockOf(node: Node): number {
  const block = intAttribute(node, 'blocksize', 0);
  if (block < 1) throw new ShapeError(node, 0, `cannot be cut into blocks of size ${block}`);
  return block;
}

function planes(node: Node, shape: readonly Dim[]): readonly [Dim, Dim, Dim, Dim] {
  const [batch, channels, height, width, ...more] = shape;
  if (
    batch === undefined ||
    channels === undefined ||
    height === undefined ||
    width === undefined ||
    more.length > 0
  ) {
    throw new ShapeError(node, 0, `has rank ${shape.length}, expected [N, C, H, W]`);
  }
  return [batch, channels, height, width];
}
