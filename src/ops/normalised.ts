import { numbersOf } from '../base/tensor.ts';
import type { Node } from '../graph/model.ts';
import type { CouplingContext } from './op.ts';

/**
 * Whether a node that takes the mean over channels is one of the two of a LayerNormalization that the exporter wrote
 * out: d = x − mean(x), then d / √(mean(d²) + ε), scaled and shifted by parameters; or the second alone, on x itself
 * (root mean square normalisation); or divides x by its mean (global response normalisation). Such means may lose terms: what is normalised stays normalised, though to other
 * values than with the channels masked.
 */
export function isNormalisation(context: CouplingContext): boolean {
  return isCentring(context) || isScaling(context) || isDividing(context);
}

/** mean(x) that is only subtracted from x: no other use, so that nothing else sees another mean than it should. */
function isCentring(context: CouplingContext): boolean {
  const users = context.consumers(0);
  const [x, mean] = [context.node.inputs[0], context.node.outputs[0]];
  return (
    users.length > 0 &&
    users.every((user) => user.opType === 'Sub' && user.inputs[0] === x && user.inputs[1] === mean)
  );
}

/** mean(x) that x is divided by, perhaps with ε added: no other use. */
function isDividing(context: CouplingContext): boolean {
  const x = context.node.inputs[0];
  let value = context.node.outputs[0]!;
  for (;;) {
    const { nodes, isExposed } = context.readers(value);
    const [user, ...more] = nodes;
    if (user === undefined || more.length > 0 || isExposed) return false;
    if (user.opType === 'Div') return user.inputs[0] === x && user.inputs[1] === value;
    const other = user.inputs.find((name) => name !== value) ?? '';
    if (user.opType !== 'Add' || context.constantNamed(other) === undefined) return false;
    value = user.outputs[0]!;
  }
}

/** mean(d²), of which the root divides. */
function isScaling(context: CouplingContext): boolean {
  const square = context.producer(0);
  const [root] = context.consumers(0);
  if (square === undefined || root === undefined || context.consumers(0).length !== 1) return false;
  // ε may be missing, where the exporter adds it elsewhere or not at all.
  return isSquare(square, context) && (root.opType === 'Add' || root.opType === 'Sqrt');
}

function isSquare(node: Node, context: CouplingContext): boolean {
  if (node.opType === 'Mul') return node.inputs[0] === node.inputs[1];
  if (node.opType !== 'Pow') return false;
  const exponent = context.constantNamed(node.inputs[1] ?? '');
  return exponent !== undefined && numbersOf(exponent).every((value) => value === 2);
}
