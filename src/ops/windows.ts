import { intAttribute, intsAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { ShapeError } from './errors.ts';

/**
 * How a kernel slides over the spatial axes: what Conv and the pooling operators share. All arrays have one entry
 * per spatial axis. Output position y reads input positions y·stride − padBegin + i·dilation, 0 ≤ i < kernel.
 */
export interface Windows {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly padsBegin: readonly number[];
  readonly padsEnd: readonly number[];
}

/**
 * The windows of a node over an input of known spatial size, with `auto_pad` worked out.
 * @param kernel sizes where the node has no `kernel_shape` (Conv takes them from its weight)
 * @throws ShapeError where the attributes do not have one entry per spatial axis
 */
export function windowsOf(node: Node, spatial: readonly number[], kernel?: readonly number[]): Windows {
  const rank = spatial.length;
  const ones = spatial.map(() => 1);
  const size = intsAttribute(node, 'kernel_shape') ?? kernel ?? [];
  const strides = intsAttribute(node, 'strides', ones);
  const dilations = intsAttribute(node, 'dilations', ones);
  const pads = intsAttribute(node, 'pads', [...ones, ...ones].fill(0));
  for (const [name, list, length] of [
    ['kernel_shape', size, rank],
    ['strides', strides, rank],
    ['dilations', dilations, rank],
    ['pads', pads, 2 * rank],
  ] as const) {
    if (list.length !== length) {
      throw new ShapeError(
        node,
        0,
        `has ${rank} spatial axes, which ask for ${length} ${name}, not ${list.length}`,
      );
    }
  }
  const padsBegin = pads.slice(0, rank);
  const padsEnd = pads.slice(rank);
  const autoPad = stringAttribute(node, 'auto_pad', 'NOTSET');
  if (autoPad !== 'NOTSET') {
    for (let i = 0; i < rank; i++) {
      const total =
        autoPad === 'VALID'
          ? 0
          : Math.max(
              0,
              (Math.ceil(spatial[i]! / strides[i]!) - 1) * strides[i]! +
                reach(size[i]!, dilations[i]!) -
                spatial[i]!,
            );
      const small = Math.floor(total / 2);
      padsBegin[i] = autoPad === 'SAME_LOWER' ? total - small : small;
      padsEnd[i] = total - padsBegin[i]!;
    }
  }
  return { kernel: size, strides, dilations, padsBegin, padsEnd };
}

/** Whether windows one step apart reach over the ends just as far as they are long: as many come out as go in. */
function keepsSize({ kernel, strides, dilations, padsBegin, padsEnd }: Windows, i: number): boolean {
  return strides[i] === 1 && padsBegin[i]! + padsEnd[i]! === reach(kernel[i]!, dilations[i]!) - 1;
}

/** Spatial sizes of the output; a size that is unknown in stays unknown out. */
export function outputSizes(node: Node, spatial: readonly Dim[], kernel?: readonly number[]): Dim[] {
  // Unknown sizes get a stand-in so that the known axes can still be worked out.
  const known = spatial.map((size) => (typeof size === 'number' ? size : 1));
  const windows = windowsOf(node, known, kernel);
  return spatial.map((size, i) => {
    if (typeof size === 'number') return outputSize(node, windows, i, size);
    return keepsSize(windows, i) ? size : null;
  });
}

function outputSize(node: Node, windows: Windows, axis: number, size: number): number {
  const stride = windows.strides[axis]!;
  const begin = windows.padsBegin[axis]!;
  const room = size + begin + windows.padsEnd[axis]! - reach(windows.kernel[axis]!, windows.dilations[axis]!);
  if (room < 0) {
    throw new ShapeError(node, 0, `has size ${size} along spatial axis ${axis}, too small for the kernel`);
  }
  const autoPad = stringAttribute(node, 'auto_pad', 'NOTSET');
  if (autoPad === 'SAME_UPPER' || autoPad === 'SAME_LOWER') return Math.ceil(size / stride);
  if (intAttribute(node, 'ceil_mode', 0) === 0) return Math.floor(room / stride) + 1;
  const rounded = Math.ceil(room / stride) + 1;
  // A window that starts in the padding after the input would see nothing: it is dropped.
  return (rounded - 1) * stride >= size + begin ? rounded - 1 : rounded;
}

/** Input positions that a kernel spans, dilation included. */
export function reach(kernel: number, dilation: number): number {
  return (kernel - 1) * dilation + 1;
}

/**
 * Attributes of the ConvTranspose that carries values at output positions back to input positions: where the
 * windows do not end on the padded input's last element, `output_padding` (or a larger end pad) makes up for it.
 */
export function transposedAttributes(
  windows: Windows,
  input: readonly number[],
  output: readonly number[],
): {
  kernel_shape: readonly number[];
  strides: readonly number[];
  dilations: readonly number[];
  pads: number[];
  output_padding: number[];
} {
  const over = input.map(
    (size, i) =>
      (output[i]! - 1) * windows.strides[i]! +
      reach(windows.kernel[i]!, windows.dilations[i]!) -
      windows.padsBegin[i]! -
      size,
  );
  return {
    kernel_shape: windows.kernel,
    strides: windows.strides,
    dilations: windows.dilations,
    pads: [...windows.padsBegin, ...over.map((count) => Math.max(0, count))],
    output_padding: over.map((count) => Math.max(0, -count)),
  };
}
