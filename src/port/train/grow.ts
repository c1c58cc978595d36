import { InvalidArgumentError } from '../../base/errors.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { type Model, withGraph, withMetadata } from '../../graph/model.ts';

/** Under this metadata key a grown network keeps the JSON of the network that it grew from. */
export const GROWN_METADATA_KEY = 'bonsai.grown';

/**
 * A large network that computes what a small, trained one of the same plan computes: a cheap start for an expensive
 * training. Parameters are matched by name. Channels that only the large network has keep its own random weights on
 * the way in and get zeros on the way out to old channels; residual blocks that only it has start as the identity
 * (the scale of their last BatchNormalization is 0). Training puts both to use, because the gradients of those zeros
 * are not zero. Source of the idea: Chen et al. 2016, "Net2Net"; here new channels are fresh ones, not copies.
 * @param small trained @param large as built, at least as wide and as deep
 * @throws InvalidArgumentError where a parameter of `small` has no place in `large`
 */
export function growNetwork(small: Model, large: Model): Model {
  const known = small.graph.initializers;
  for (const [name, tensor] of known) {
    const room = large.graph.initializers.get(name);
    const fits =
      room?.shape.length === tensor.shape.length && room.shape.every((size, i) => size >= tensor.shape[i]!);
    if (!fits) {
      throw new InvalidArgumentError(
        `A network cannot grow into one without room for its "${name}" of shape [${tensor.shape.join(', ')}]; ` +
          `the larger one has ${room === undefined ? 'none' : `[${room.shape.join(', ')}]`}.`,
      );
    }
  }
  const initializers = new Map(large.graph.initializers);
  for (const [name, tensor] of initializers) {
    const old = known.get(name);
    if (old !== undefined) initializers.set(name, embed(old, tensor));
    else if (LAST_SCALE_OF_BLOCK.test(name)) initializers.set(name, zerosLike(tensor));
  }
  const grown = withGraph(large, { ...large.graph, initializers });
  return withMetadata(grown, { [GROWN_METADATA_KEY]: JSON.stringify(Object.fromEntries(small.metadata)) });
}

/** As `resNet` names the scale whose zero makes a basic block the identity. */
const LAST_SCALE_OF_BLOCK = /\/block\d+\/2\/norm\/scale$/;

/**
 * Old values in the corner of the new tensor. Axis 0 is the channel that a row makes, axis 1 the channels that it
 * reads: a row that was there before reads nothing of the new channels, a new row keeps all of its own values.
 */
function embed(old: Tensor, room: Tensor): Tensor {
  const from = floatsOf(old);
  const to = floatsOf(room).slice();
  const [oldRows = 1, oldColumns = 1, ...kernel] = old.shape;
  const columns = room.shape[1] ?? 1;
  const size = elementCount(kernel);
  if (room.shape.slice(2).join() !== kernel.join()) {
    throw new InvalidArgumentError(
      `A kernel of ${kernel.join('×')} cannot grow into one of ${room.shape.slice(2).join('×')}.`,
    );
  }
  for (let row = 0; row < oldRows; row++) {
    const start = row * columns * size;
    to.fill(0, start, start + columns * size);
    to.set(from.subarray(row * oldColumns * size, (row + 1) * oldColumns * size), start);
  }
  return float32Tensor(room.shape, to);
}

function zerosLike(tensor: Tensor): Tensor {
  return float32Tensor(tensor.shape, new Float32Array(elementCount(tensor.shape)));
}
