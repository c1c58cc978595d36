import { byteLengthOf } from '../../base/dtype.ts';
import { InvalidArgumentError } from '../../base/errors.ts';
import { ownValue } from '../../base/own-value.ts';
import type { Random } from '../../base/random.ts';
import { elementCount, float32Tensor, isNumeric, type Tensor } from '../../base/tensor.ts';
import type { ValueInfo } from '../../graph/model.ts';

/**
 * An input of a network to measure it with: uniform values in [0, 1) for floats, as images have; zeros for everything else
 * (indices are valid at 0).
 * @param shapes sizes for inputs that leave more than the batch open, by input name; an open batch is 1
 * @throws InvalidArgumentError where a size is open or the type is none that numbers fill
 */
export function seededInput(
  info: ValueInfo,
  random: Random,
  shapes: Readonly<Record<string, readonly number[]>> = {},
): Tensor {
  const { name, type } = info;
  const shape =
    ownValue(shapes, name) ??
    (type?.shape ?? []).map((dim, axis) => (typeof dim !== 'number' && axis === 0 ? 1 : dim));
  const sizes = shape.map((size) => {
    if (typeof size === 'number') return size;
    throw new InvalidArgumentError(
      `Input "${name}" has the shape [${shape.join(', ')}]; give its sizes in \`shapes\` (--shape).`,
    );
  });
  const count = elementCount(sizes);
  if (type?.dtype === 'float32')
    return float32Tensor(
      sizes,
      Float32Array.from({ length: count }, () => random.uniform()),
    );
  if (type !== undefined && isNumeric(type.dtype)) {
    return { dtype: type.dtype, shape: sizes, bytes: new Uint8Array(byteLengthOf(type.dtype, count)) };
  }
  throw new InvalidArgumentError(
    `Input "${name}" is of type ${type?.dtype ?? 'unknown'}, which profiling cannot fill.`,
  );
}
