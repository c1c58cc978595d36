import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { elementCount, float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { type Model, withGraph } from '../../graph/model.ts';
import { removeUnused } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { batchOfInputs, freeBatch } from '../../transform/passes/free-batch.ts';
import type { Batch } from '../data/batch.ts';
import type { Dataset } from '../data/data-module.ts';
import { type ImageInput, withImageInput } from '../image-input.ts';

/**
 * A network of anybody's as a teacher: for any number of images with pixels in [0, 1], one output, logits [N, classes].
 * A Softmax at its end is taken off, because a temperature has to divide logits.
 * @param data the images' shape and statistics, and the classes that its student tells apart
 * @throws BonsaiError `shape_mismatch` where its images or classes are others, `unsupported` where its file is
 * for one number of images only and cannot be freed of that
 */
export function toTeacher(
  network: Model,
  data: Pick<Dataset, 'shape' | 'normalization'> & { readonly classes: number },
  input: ImageInput = {},
): Model {
  const open = withOpenBatch(network);
  if (open === undefined) {
    throw new BonsaiError(
      'unsupported',
      `The teacher takes exactly ${batchOfInputs(network.graph)} images at a time, which is built into its graph. ` +
        'Export it with an open batch.',
    );
  }
  let seeing: Model;
  try {
    seeing = withImageInput(open, data, input);
  } catch (thrown) {
    if (!(thrown instanceof BonsaiError)) throw thrown;
    throw new BonsaiError(thrown.code, `The teacher does not fit the data. ${thrown.message}`, {
      cause: thrown,
    });
  }
  const teacher = withLogits(seeing);
  const [image] = teacher.graph.inputs;
  const [answer] = teacher.graph.outputs;
  const { types } = inferTypes(teacher, { inputs: { [image!.name]: [PROBE_BATCH, ...data.shape] } });
  const shape = types.get(answer?.name ?? '')?.shape;
  if (shape?.length !== 2 || shape[0] !== PROBE_BATCH || shape[1] !== data.classes) {
    throw new BonsaiError(
      'shape_mismatch',
      `The teacher should answer with logits [N, ${data.classes}], one for each class of the student; ` +
        `for ${PROBE_BATCH} images it answers [${shape?.map((size) => size ?? '?').join(', ') ?? 'unknown'}].`,
    );
  }
  return teacher;
}

/** Any batch but 1, which some graphs have built in. */
const PROBE_BATCH = 2;

/** A file written for one batch size as one for any; undefined where that cannot be. */
export function withOpenBatch(model: Model): Model | undefined {
  return batchOfInputs(model.graph) === undefined ? model : freeBatch(foldConstants(model));
}

function withLogits(model: Model): Model {
  const { graph } = model;
  const [answer] = graph.outputs;
  const last = graph.nodes.find((node) => node.outputs[0] === answer?.name);
  const name = last?.opType === 'Softmax' && last.domain === '' ? last.inputs[0]! : answer?.name;
  if (answer === undefined || name === undefined) return model;
  return withGraph(model, removeUnused({ ...graph, outputs: [{ ...answer, name }] }));
}

/** A loaded teacher. */
export interface Teacher {
  /**
   * Its logits for examples of the training split, row-major [count, classes].
   * @param batch their images at full resolution, made only where they are needed
   * @throws InvalidArgumentError where a logit is not finite
   */
  logits(indices: ArrayLike<number>, batch: () => Batch): Promise<Float32Array>;
  release(): Promise<void>;
}

/** What a teacher's answers may take in memory: 100 classes for 167,000 examples. */
export const TEACHER_CACHE_BYTES = 64 * 2 ** 20;

export interface TeacherOptions {
  /** Examples in the training split, and classes. */
  readonly count: number;
  readonly classes: number;
  /** Whether an example looks the same each time, so that the teacher need be asked only once about each. */
  readonly isRepeating: boolean;
  readonly threads: number;
}

/** Loads what `toTeacher` made. */
export async function openTeacher(model: Uint8Array, options: TeacherOptions): Promise<Teacher> {
  const { count, classes } = options;
  const session = await Session.create(model, { intraOpThreads: options.threads });
  const ask = async (images: Float32Array, shape: readonly number[]) => {
    const [output] = session.outputNames;
    const results = await session.run({ [session.inputNames[0]!]: float32Tensor(shape, images) });
    const logits = floatsOf(results[output!]!);
    if (logits.some((logit) => !Number.isFinite(logit))) {
      throw new InvalidArgumentError('The teacher answered with numbers that are not finite (NaN or Inf).');
    }
    return logits;
  };
  const release = () => session.release();
  if (!options.isRepeating || 4 * count * classes > TEACHER_CACHE_BYTES) {
    const logits: Teacher['logits'] = async (_, batch) => {
      const { images, shape } = batch();
      return ask(images, shape);
    };
    return { logits, release };
  }
  const known = new Float32Array(count * classes).fill(Number.NaN);
  const isKnown = (index: number) => !Number.isNaN(known[index * classes]!);
  const logits = async (indices: ArrayLike<number>, batch: () => Batch) => {
    const rows = Array.from(indices);
    if (!rows.every(isKnown)) {
      const { images, shape } = batch();
      const size = elementCount(shape.slice(1));
      for (const [i, index] of rows.entries()) {
        if (isKnown(index)) continue;
        // One by one: an answer must not depend, in its last bit, on the batch in which it was asked for first, which
        // is another one after a resumption.
        const image = images.subarray(i * size, (i + 1) * size);
        known.set(await ask(image, [1, ...shape.slice(1)]), index * classes);
      }
    }
    const wanted = new Float32Array(rows.length * classes);
    for (const [i, index] of rows.entries()) {
      wanted.set(known.subarray(index * classes, (index + 1) * classes), i * classes);
    }
    return wanted;
  };
  return { logits, release };
}
