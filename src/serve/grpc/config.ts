import { modelConfig } from '../model-configuration.ts';
import type { ServedModel } from '../served-model.ts';

/** Numbers of the enums whose names the configuration has in JSON, by field. */
const ENUMS: Readonly<Record<string, readonly string[]>> = {
  data_type: [
    'TYPE_INVALID',
    'TYPE_BOOL',
    'TYPE_UINT8',
    'TYPE_UINT16',
    'TYPE_UINT32',
    'TYPE_UINT64',
    'TYPE_INT8',
    'TYPE_INT16',
    'TYPE_INT32',
    'TYPE_INT64',
    'TYPE_FP16',
    'TYPE_FP32',
    'TYPE_FP64',
    'TYPE_STRING',
    'TYPE_BF16',
  ],
  kind: ['KIND_AUTO', 'KIND_GPU', 'KIND_CPU', 'KIND_MODEL'],
  timeout_action: ['REJECT', 'DELAY'],
};

/** The configuration as the JSON of a ModelConfigResponse. */
export function modelConfigResponse(model: ServedModel, version: number | undefined, slots: number): unknown {
  return { config: withEnumNumbers(modelConfig(model, version, slots)) };
}

function withEnumNumbers(value: unknown, field?: string): unknown {
  if (typeof value === 'string' && field !== undefined) {
    const number = ENUMS[field]?.indexOf(value) ?? -1;
    return number < 0 ? value : number;
  }
  if (Array.isArray(value)) return value.map((item) => withEnumNumbers(item));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .map(([key, item]) => [key, withEnumNumbers(item, key)]),
  );
}
