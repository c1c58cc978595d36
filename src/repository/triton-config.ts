import type { DType } from '../base/dtype.ts';
import { BonsaiError } from '../base/errors.ts';
import type { TaskManifest, TensorSpec } from './types.ts';

/**
 * The text of `config.pbtxt`, with which a Triton server serves the same folder. `max_batch_size: 0` because shapes
 * here include the batch dimension; the version policy names the most accurate variant, where Triton's default
 * would take the highest number, which is the smallest network.
 */
export function tritonConfigOf(manifest: TaskManifest): string {
  const first = Math.min(...manifest.variants.map((variant) => variant.version));
  const versions = Number.isFinite(first) ? `version_policy { specific { versions: [ ${first} ] } }\n` : '';
  const labels = manifest.classes === undefined ? undefined : LABELS_FILE;
  return `name: ${quoted(manifest.task)}
backend: "onnxruntime"
max_batch_size: 0
${manifest.inputs.map((spec) => tensorText('input', spec)).join('\n')}
${manifest.outputs.map((spec) => tensorText('output', spec, labels)).join('\n')}
instance_group [ { count: 1 kind: KIND_CPU } ]
${versions}parameters { key: "intra_op_thread_count" value { string_value: "1" } }
`;
}

export const LABELS_FILE = 'labels.txt';

const TRITON_TYPES: Partial<Record<DType, string>> = {
  bool: 'BOOL',
  uint8: 'UINT8',
  uint16: 'UINT16',
  uint32: 'UINT32',
  uint64: 'UINT64',
  int8: 'INT8',
  int16: 'INT16',
  int32: 'INT32',
  int64: 'INT64',
  float16: 'FP16',
  float32: 'FP32',
  float64: 'FP64',
  bfloat16: 'BF16',
  string: 'STRING',
};

/** The name of an element type in Triton's model configuration, e.g. `TYPE_FP32`. @throws BonsaiError `unsupported` */
export function tritonTypeOf(dtype: DType): string {
  const name = TRITON_TYPES[dtype];
  if (name === undefined) {
    throw new BonsaiError(
      'unsupported',
      `Tensors of ${dtype} cannot be served: the protocol has no name for that type.`,
    );
  }
  return `TYPE_${name}`;
}

function tensorText(kind: 'input' | 'output', spec: TensorSpec, labels?: string): string {
  const label = labels === undefined ? '' : ` label_filename: ${quoted(labels)}`;
  return `${kind} [ { name: ${quoted(spec.name)} data_type: ${tritonTypeOf(spec.dtype)} dims: [ ${spec.shape.join(', ')} ]${label} } ]`;
}

function quoted(text: string): string {
  return `"${text.replace(/[\\"]/g, '\\$&').replace(/\n/g, '\\n')}"`;
}
