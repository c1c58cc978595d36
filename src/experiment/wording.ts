import type { Variant } from '../repository/types.ts';

/** `0.8796` → `87.96 %`; `–` for what was not measured. */
export function percent(ratio: number | null | undefined, digits = 2): string {
  return ratio === null || ratio === undefined || !Number.isFinite(ratio)
    ? '–'
    : `${(100 * ratio).toFixed(digits)} %`;
}

/** A number with the digits that matter. */
export function figure(value: number | null | undefined, digits = 3): string {
  return value === null || value === undefined || !Number.isFinite(value)
    ? '–'
    : Number(value.toPrecision(digits)).toLocaleString('en-US', { maximumFractionDigits: 6 });
}

/** What a version is, by its lineage: `resnet, fpgm 0.5, 8-bit`. */
export function describeVariant({ lineage }: Pick<Variant, 'lineage'>): string {
  const { backbone, pruning, distillation, quantization } = lineage;
  return [
    backbone?.split(':')[0] ?? 'network',
    ...(pruning === undefined ? [] : [`${pruning.criterion} ${figure(pruning.ratio, 2)}`]),
    ...(distillation === undefined ? [] : ['distilled']),
    ...(quantization === undefined ? [] : ['8-bit']),
  ].join(', ');
}
