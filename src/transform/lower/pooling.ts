import { elementCount } from '../../base/tensor.ts';
import { intAttribute } from '../../graph/attributes.ts';
import { NCHWC_DOMAIN } from '../../graph/domains.ts';
import type { Node } from '../../graph/model.ts';
import { windowsOf } from '../../ops/windows.ts';
import { scaleChannels } from './normalization.ts';
import type { Values } from './values.ts';

export function poolGlobally(values: Values, node: Node): boolean {
  const x = node.inputs[0]!;
  if (!values.isImage(x) || !values.isBlocked(x)) return false;
  const { value, channels } = values.blocked(x);
  const mean = values.build.op('GlobalAveragePool', [value], {}, { domain: NCHWC_DOMAIN });
  values.setBlocked(node.outputs[0]!, mean, channels);
  return true;
}

/** The gradient is the same at all positions; it is not spread out before somebody needs it so. */
export function poolGloballyGradient(values: Values, node: Node): boolean {
  const dx = node.outputs[0]!;
  if (!values.isImage(dx)) return false;
  const { build } = values;
  const inverse = build.scalar(1 / elementCount(values.shape(dx).slice(2)));
  values.setSpread(dx, build.op('Mul', [values.plain(node.inputs[0]!), inverse]));
  return true;
}

/** MaxPool without positions, and AveragePool. */
export function poolWindows(values: Values, node: Node): boolean {
  const x = node.inputs[0]!;
  if (!values.isImage(x) || !values.isBlocked(x) || node.outputs.length !== 1) return false;
  const windows = windowsOf(node, values.shape(x).slice(2));
  if (windows.dilations.some((dilation) => dilation !== 1)) return false;
  const { value, channels } = values.blocked(x);
  const pooled = values.build.op(
    node.opType,
    [value],
    {
      kernel_shape: windows.kernel,
      strides: windows.strides,
      pads: [...windows.padsBegin, ...windows.padsEnd],
      ceil_mode: intAttribute(node, 'ceil_mode', 0),
      ...(node.opType === 'AveragePool' && { count_include_pad: intAttribute(node, 'count_include_pad', 0) }),
    },
    { domain: NCHWC_DOMAIN },
  );
  values.setBlocked(node.outputs[0]!, pooled, channels);
  return true;
}

/** Windows side by side without a gap: each value of dy is shared out among the positions of its window. */
export function poolWindowsGradient(values: Values, node: Node): boolean {
  const [dy, x] = node.inputs as [string, string];
  if (!values.isImage(x) || !values.isBlocked(dy)) return false;
  const input = values.shape(x).slice(2);
  const { kernel, strides, padsBegin, dilations } = windowsOf(node, input);
  const isTiling = kernel.every(
    (size, i) =>
      size === strides[i] &&
      padsBegin[i] === 0 &&
      dilations[i] === 1 &&
      size * values.shape(dy)[i + 2]! === input[i],
  );
  if (!isTiling) return false;
  const { value, channels } = values.blocked(dy);
  const share = values.build.floats(new Array<number>(channels.padded).fill(1 / elementCount(kernel)));
  const shares = scaleChannels(values, value, channels, share, {});
  const spread = values.build.op(
    'Upsample',
    [shares],
    { scales: [1, 1, ...kernel], mode: 'nearest' },
    { domain: NCHWC_DOMAIN },
  );
  values.setBlocked(node.outputs[0]!, spread, channels);
  return true;
}
