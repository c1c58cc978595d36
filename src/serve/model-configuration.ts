import { LABELS_FILE, tritonTypeOf } from '../repository/triton-config.ts';
import type { TensorSpec } from '../repository/types.ts';
import type { ServedModel, VersionSelection } from './served-model.ts';

/** A model's configuration as Triton writes it: shapes include the batch, so `max_batch_size` is 0. */
export function modelConfig(
  model: ServedModel,
  version: number | undefined,
  slots: number,
): Record<string, unknown> {
  const live = model.resolve(version);
  const labels = model.stored?.manifest?.classes === undefined ? '' : LABELS_FILE;
  return {
    name: model.name,
    platform: 'onnxruntime_onnx',
    backend: 'onnxruntime',
    version_policy: versionPolicy(model.selection),
    max_batch_size: 0,
    input: live.inputs.map((spec) => tensorConfig(spec)),
    output: live.outputs.map((spec) => ({ ...tensorConfig(spec), label_filename: labels })),
    instance_group: [{ name: model.name, kind: 'KIND_CPU', count: slots }],
    default_model_filename: 'model.onnx',
    parameters: {
      intra_op_thread_count: { string_value: String(live.threads) },
      ...(model.shares === undefined
        ? {}
        : { [SHARES_PARAMETER]: { string_value: sharesText(model.shares) } }),
    },
  };
}

/** The parameter of a configuration that splits requests among versions, such as `{"2":0.9,"3":0.1}`. */
export const SHARES_PARAMETER = 'bonsai.shares';

function sharesText(shares: ReadonlyMap<number, number>): string {
  return JSON.stringify(Object.fromEntries(shares));
}

function versionPolicy(selection: VersionSelection | undefined): unknown {
  switch (selection?.kind) {
    case 'specific':
      return { specific: { versions: selection.versions } };
    case 'latest':
      return { latest: { num_versions: selection.count } };
    case 'all':
      return { all: {} };
    case undefined:
      return undefined;
    default:
      return selection satisfies never;
  }
}

function tensorConfig({ name, dtype, shape }: TensorSpec): Record<string, unknown> {
  return { name, data_type: tritonTypeOf(dtype), dims: shape };
}
