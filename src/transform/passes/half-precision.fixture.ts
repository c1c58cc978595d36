import { halfTensor } from '../../base/half.ts';
import { floatsOf } from '../../base/tensor.ts';
import { type Model, type ValueInfo, withGraph } from '../../graph/model.ts';

/** A float32 network in 16-bit floats throughout, as converters write it. For networks without float32-only inputs. */
export function halfPrecision(model: Model, dtype: 'float16' | 'bfloat16' = 'float16'): Model {
  const { graph } = model;
  const info = (value: ValueInfo): ValueInfo =>
    value.type?.dtype === 'float32' ? { ...value, type: { ...value.type, dtype } } : value;
  const initializers = new Map(
    [...graph.initializers].map(([name, tensor]) => [
      name,
      tensor.dtype === 'float32' ? halfTensor(dtype, tensor.shape, floatsOf(tensor)) : tensor,
    ]),
  );
  const [inputs, outputs] = [graph.inputs.map(info), graph.outputs.map(info)];
  return withGraph(model, { ...graph, inputs, outputs, initializers, valueInfos: new Map() });
}
