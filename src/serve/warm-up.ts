import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { byteLengthOf } from '../base/dtype.ts';
import { messageOf } from '../base/errors.ts';
import { type Random, seededRandom } from '../base/random.ts';
import { elementCount, elementsOf, isNumeric, type Tensor } from '../base/tensor.ts';
import type { Warmup, WarmupInput } from '../repository/model-config.ts';
import { isTaskName } from '../repository/names.ts';
import { tritonTypeOf } from '../repository/triton-config.ts';
import type { TensorSpec } from '../repository/types.ts';
import type { Lane } from './lane.ts';

/** Random warm-up inputs are the same at every load. */
const SEED = 1;

/** An input of a warm-up is no larger than a request may be. */
export const MAX_WARMUP_BYTES = 64 * 1024 * 1024;

/**
 * Runs the inferences that a configuration asks for before a version counts as ready, on each of its threads.
 * @param lanes none: only looks whether the samples fit the network
 * @param folder of the task: files of inputs lie in its folder `warmup`
 * @throws Error naming the sample, if it does not fit the network or its inference fails
 */
export async function warmUp(
  lanes: readonly Lane[],
  inputs: readonly TensorSpec[],
  warmups: readonly Warmup[],
  folder: string | undefined,
): Promise<void> {
  for (const [i, warmup] of warmups.entries()) {
    try {
      const random = seededRandom(SEED).fork(String(i));
      const tensors = await Promise.all(
        inputs.map((spec) => inputFor(spec, warmup, random.fork(spec.name), folder)),
      );
      const unknown = [...warmup.inputs.keys()].find((name) => !inputs.some((spec) => spec.name === name));
      if (unknown !== undefined) throw new Error(`the network has no input '${unknown}'`);
      for (const lane of lanes) for (let run = 0; run < warmup.count; run++) await lane.run([tensors]);
    } catch (cause) {
      throw new Error(`warm-up '${warmup.name}': ${messageOf(cause)}`, { cause });
    }
  }
}

async function inputFor(
  spec: TensorSpec,
  warmup: Warmup,
  random: Random,
  folder: string | undefined,
): Promise<Tensor> {
  const input = warmup.inputs.get(spec.name);
  if (input === undefined) throw new Error(`it has no input '${spec.name}'`);
  const type = tritonTypeOf(spec.dtype);
  if (input.dataType !== undefined && input.dataType !== type)
    throw new Error(`input '${spec.name}' is ${input.dataType}; the network takes ${type}`);
  const shape = shapeFor(spec, warmup.batchSize, input);
  const count = elementCount(shape);
  if (!(count * 8 <= MAX_WARMUP_BYTES))
    throw new Error(`input '${spec.name}' of shape [${shape.join(', ')}] is too large`);
  if (spec.dtype === 'string') {
    if (typeof input.source === 'object')
      throw new Error(`input '${spec.name}': strings cannot come from a file`);
    return {
      dtype: 'string',
      shape,
      bytes: new Uint8Array(0),
      strings: Array.from({ length: count }, () => new Uint8Array(0)),
    };
  }
  const bytes = new Uint8Array(byteLengthOf(spec.dtype, count));
  const tensor = { dtype: spec.dtype, shape, bytes };
  if (typeof input.source === 'object') bytes.set(await bytesOf(input.source.file, bytes.byteLength, folder));
  else if (input.source === 'random') fill(tensor, random);
  return tensor;
}

/** Dimensions of a configuration leave the batch out where it has one; the network's shapes here include it. */
function shapeFor({ name, shape }: TensorSpec, batchSize: number, { dims }: WarmupInput): readonly number[] {
  const full = dims.length === shape.length - 1 ? [Math.max(1, batchSize), ...dims] : dims;
  const fits = full.length === shape.length && shape.every((size, i) => size === -1 || size === full[i]);
  if (fits) return full;
  throw new Error(`input '${name}' has dims [${dims.join(', ')}]; the network takes [${shape.join(', ')}]`);
}

/** Uniform in [0, 1) for floats, 0 or 1 for the rest: values that every network takes, also as indices. */
function fill(tensor: Tensor, random: Random): void {
  if (!isNumeric(tensor.dtype) || tensor.dtype === 'float16' || tensor.dtype === 'bfloat16') return;
  const elements = elementsOf(tensor);
  const isFloat = elements instanceof Float32Array || elements instanceof Float64Array;
  for (let i = 0; i < elements.length; i++) {
    if (elements instanceof BigInt64Array || elements instanceof BigUint64Array)
      elements[i] = BigInt(random.integer(2));
    else elements[i] = isFloat ? random.uniform() : random.integer(2);
  }
}

async function bytesOf(file: string, length: number, folder: string | undefined): Promise<Uint8Array> {
  if (folder === undefined || !isTaskName(file))
    throw new Error(`input_data_file '${file}' must be the name of a file in the model's folder 'warmup'`);
  const path = join(folder, 'warmup', file);
  const { size } = await stat(path);
  if (size !== length) throw new Error(`${path} has ${size} bytes; the input takes ${length}`);
  return readFile(path);
}
