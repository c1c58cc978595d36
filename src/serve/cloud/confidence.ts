import type { NamedTensor } from '../input-check.ts';

/** What a classifier says of one example. */
export interface Verdict {
  /** The class with the highest score. */
  readonly class: number;
  /** Its probability, in [0, 1]. */
  readonly confidence: number;
}

/** Scores that are none below zero and sum to 1 within this are probabilities already. */
const SUM_TOLERANCE = 1e-3;

/**
 * The verdicts of an answer, one for each example: the highest probability of a vector of classes, after a softmax where
 * the network gives scores.
 * @returns undefined for whatever is no classifier: another number of outputs than one, or one that is not a float32
 *   matrix of examples and at least two classes, or that has values which are no numbers
 */
export function verdictsOf(outputs: readonly NamedTensor[]): readonly Verdict[] | undefined {
  const [output] = outputs;
  if (output === undefined || outputs.length > 1 || output.dtype !== 'float32') return undefined;
  const [rows = 0, classes = 0, ...more] = output.shape;
  if (more.length > 0 || rows < 1 || classes < 2) return undefined;
  const { buffer, byteOffset, byteLength } = output.bytes;
  const scores = new DataView(buffer, byteOffset, byteLength);
  const verdicts: Verdict[] = [];
  for (let row = 0; row < rows; row++) {
    const verdict = verdictOf((c) => scores.getFloat32(4 * (row * classes + c), true), classes);
    if (verdict === undefined) return undefined;
    verdicts.push(verdict);
  }
  return verdicts;
}

function verdictOf(score: (c: number) => number, classes: number): Verdict | undefined {
  let best = 0;
  let sum = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let c = 0; c < classes; c++) {
    const value = score(c);
    if (!Number.isFinite(value)) return undefined;
    sum += value;
    least = Math.min(least, value);
    if (value > score(best)) best = c;
  }
  if (least >= 0 && Math.abs(sum - 1) <= SUM_TOLERANCE) return { class: best, confidence: score(best) };
  // 1 / Σ exp(z − z_best): the softmax of the best, without overflow.
  let denominator = 0;
  for (let c = 0; c < classes; c++) denominator += Math.exp(score(c) - score(best));
  return { class: best, confidence: 1 / denominator };
}
