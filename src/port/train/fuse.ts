import { InvalidArgumentError } from '../../base/errors.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { type Model, withGraph, withMetadata } from '../../graph/model.ts';

/** Under this metadata key a fused network keeps how many networks it was made of. */
export const FUSED_METADATA_KEY = 'bonsai.fused';

/**
 * One wide network that computes the mean of the outputs of several trained narrow ones: a deep ensemble
 * (Lakshminarayanan et al. 2017) that is served, pruned and fine-tuned as any other network. It makes fewer mistakes
 * than its members, and each of their training steps costs a small part of one of the wide network's.
 *
 * Members and wide network have the same plan; parameters are matched by name. Where the wide network has all its
 * members' channels, member m owns the m-th stretch of them, and weights between channels of different members are 0:
 *
 *     W = | W₁  0  |     for 2 members;   stem (same image for all): | W₁ |    last layer: [ W₁/2  W₂/2 ]
 *         | 0   W₂ |                                                 | W₂ |
 *
 * @param members trained, all of one plan @param wide as built, `members.length` times as wide; its weights are not used
 * @throws InvalidArgumentError where a parameter's shape is neither the members' nor `members.length` times theirs
 */
export function fuseNetworks(members: readonly Model[], wide: Model): Model {
  const initializers = new Map(wide.graph.initializers);
  for (const [name, room] of initializers) {
    const parts = members.map((member) => member.graph.initializers.get(name));
    initializers.set(name, fuse(name, parts, room));
  }
  const fused = withGraph(wide, { ...wide.graph, initializers });
  return withMetadata(fused, { [FUSED_METADATA_KEY]: String(members.length) });
}

function fuse(name: string, parts: readonly (Tensor | undefined)[], room: Tensor): Tensor {
  const [first] = parts;
  const isWider = (axis: number) => room.shape[axis] === parts.length * first!.shape[axis]!;
  const fits =
    first !== undefined &&
    parts.every((part) => part?.shape.join() === first.shape.join()) &&
    room.shape.length === first.shape.length &&
    room.shape.every((size, axis) => size === first.shape[axis] || (axis < 2 && isWider(axis)));
  if (!fits) {
    throw new InvalidArgumentError(
      `Networks cannot be fused: "${name}" has shape [${room.shape.join(', ')}] in the wide network and ` +
        `[${first?.shape.join(', ') ?? 'none'}] in its ${parts.length} members.`,
    );
  }
  if (room.dtype !== 'float32') return room;
  const [rows = 1, columns = 1, ...kernel] = first.shape;
  const [, roomColumns = 1] = room.shape;
  const size = elementCount(kernel);
  // An output that all members share is the mean of theirs: what they add up to it is divided by their number.
  const isShared = rows === (room.shape[0] ?? 1);
  const values = new Float32Array(elementCount(room.shape));
  for (const [member, part] of parts.entries()) {
    const from = floatsOf(part!); // All are there, as `fits` says.
    const row0 = isShared ? 0 : member * rows;
    const column0 = columns === roomColumns ? 0 : member * columns;
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < columns * size; i++) {
        const to = ((row0 + row) * roomColumns + column0) * size + i;
        values[to]! += from[row * columns * size + i]! / (isShared ? parts.length : 1);
      }
    }
  }
  return float32Tensor(room.shape, values);
}
