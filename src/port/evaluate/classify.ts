import { BonsaiError } from '../../base/errors.ts';
import { withoutHalf } from '../../base/half.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import type { Session } from '../../engine/session.ts';
import { batchOf } from '../data/batch.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { type ExampleRequest, openExamples } from '../data/examples.ts';

/** Right and wrong answers on a split. */
export interface Evaluation {
  /** Share of right answers; NaN for an empty split. */
  readonly accuracy: number;
  readonly count: number;
  readonly correct: number;
  /** [true class][answered class], counts; the last column holds answers that are not numbers (NaN scores). */
  readonly confusion: readonly (readonly number[])[];
}

/**
 * Asks a loaded classifier about every example of a split, the last, smaller batch included.
 * @throws BonsaiError `shape_mismatch` where the answers do not have one score for each class and example
 */
export async function classifySplit(
  session: Session,
  dataset: Pick<Dataset, 'shape'>,
  split: Split,
  options: { readonly batch: number; readonly resolution?: number; readonly beforeBatch?: () => void },
): Promise<Evaluation> {
  const input = session.inputNames[0]!;
  const output = session.outputNames[0]!;
  let confusion: number[][] = [];
  let correct = 0;
  const examples = openExamples(split, dataset.shape, inOrder(split.count, options.batch));
  try {
    for (let from = 0; from < split.count; from += options.batch) {
      options.beforeBatch?.();
      const count = Math.min(options.batch, split.count - from);
      const part = await examples.next();
      const { images, labels, shape } = batchOf(dataset, part.split, part.indices, {
        resolution: options.resolution,
      });
      const scores = (await session.run({ [input]: float32Tensor(shape, images) }, [output]))[output]!;
      const classes = scores.shape[1] ?? 0;
      if (scores.shape.length !== 2 || scores.shape[0] !== count) {
        throw new BonsaiError(
          'shape_mismatch',
          `The network answered ${count} examples with scores of shape [${scores.shape.join(', ')}], expected [${count}, classes].`,
        );
      }
      if (confusion.length === 0)
        confusion = Array.from({ length: classes }, () => new Array(classes + 1).fill(0));
      const values = floatsOf(withoutHalf(scores));
      labels.forEach((label, i) => {
        const row = confusion[label];
        if (row === undefined) {
          throw new BonsaiError(
            'shape_mismatch',
            `Example ${from + i} has class ${label}; the network knows ${classes}.`,
          );
        }
        const answer = argmax(values, i * classes, classes);
        row[answer]!++;
        if (answer === label) correct++;
      });
    }
  } finally {
    await examples.close();
  }
  return { accuracy: correct / split.count, count: split.count, correct, confusion };
}

/** All examples of a split, one batch after another. */
function* inOrder(total: number, batch: number): Generator<ExampleRequest> {
  for (let from = 0; from < total; from += batch) {
    yield { indices: Array.from({ length: Math.min(batch, total - from) }, (_, i) => from + i) };
  }
}

/** The index of the highest score (the first of equal ones); `count` where a score is not a number. */
function argmax(values: Float32Array, from: number, count: number): number {
  let best = 0;
  for (let i = 0; i < count; i++) {
    const value = values[from + i]!;
    if (Number.isNaN(value)) return count;
    if (value > values[from + best]!) best = i;
  }
  return best;
}
