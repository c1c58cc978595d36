import { createHash } from 'node:crypto';
import { readSealed, writeSealed } from '../sealed-file.ts';
import type { HistoryEntry } from './history.ts';

/**
 * All that a training needs to go on as if it had never stopped: weights, the optimiser's vectors, running averages,
 * the position, and the sums behind the figures shown. What is drawn (order, shifts) is a function of seed and position.
 */
export interface Checkpoint {
  /** Steps done. */
  readonly step: number;
  readonly parameters: Float32Array;
  /** The optimiser's vectors, in the order of the training step's `moments`. */
  readonly moments: readonly Float32Array[];
  /** Running averages, in the order of the training step's `state`. */
  readonly state: readonly Float32Array[];
  readonly running: RunningFigures;
  readonly history: readonly HistoryEntry[];
  /** The best validated weights so far, where early stopping watches. */
  readonly best?: BestWeights;
}

/** Sums since the last entry of the history. */
export interface RunningFigures {
  readonly lossSum: number;
  readonly correct: number;
  readonly steps: number;
}

export interface BestWeights {
  readonly step: number;
  readonly accuracy: number;
  readonly parameters: Float32Array;
  readonly state: readonly Float32Array[];
}

/** @throws BonsaiError `unwritable_path` */
export async function writeCheckpoint(path: string, identity: string, checkpoint: Checkpoint): Promise<void> {
  const { step, running, history, best } = checkpoint;
  const arrays = [checkpoint.parameters, ...checkpoint.moments, ...checkpoint.state];
  if (best !== undefined) arrays.push(best.parameters, ...best.state);
  const header: Header = {
    format: CHECKPOINT_FORMAT,
    identity,
    step,
    running,
    history,
    moments: checkpoint.moments.length,
    states: checkpoint.state.length,
    lengths: arrays.map((array) => array.length),
    best: best && { step: best.step, accuracy: best.accuracy },
  };
  await writeSealed(
    path,
    header,
    arrays.map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)),
  );
}

export type FoundCheckpoint =
  | { readonly kind: 'none' }
  /** There is one, but it cannot be used; the reason is a sentence for the user. */
  | { readonly kind: 'unusable'; readonly reason: string }
  | { readonly kind: 'usable'; readonly checkpoint: Checkpoint };

/** Reads the checkpoint of a training known by its identity (`trainingIdentity`). */
export async function readCheckpoint(path: string, identity: string): Promise<FoundCheckpoint> {
  const file = await readSealed(path);
  if (file.kind === 'missing') return { kind: 'none' };
  if (file.kind === 'damaged')
    return { kind: 'unusable', reason: `The checkpoint is damaged: ${file.reason}.` };
  // The digest matched, so the header is what writeCheckpoint of some version of Bonsai wrote.
  const header = file.header as Header;
  if (header.format !== CHECKPOINT_FORMAT) {
    return {
      kind: 'unusable',
      reason:
        `The checkpoint ${path} has format ${header.format}, of ${header.format < CHECKPOINT_FORMAT ? 'an older' : 'a newer'} ` +
        `version of Bonsai; this one reads format ${CHECKPOINT_FORMAT}.`,
    };
  }
  if (header.identity !== identity) {
    return {
      kind: 'unusable',
      reason: `The checkpoint ${path} belongs to another training (network, data, teacher, recipe or seed differ).`,
    };
  }
  let at = 0;
  const arrays = header.lengths.map((length) => {
    // A copy, because the payload need not be aligned for floats.
    const bytes = file.payload.slice(at, at + 4 * length);
    at += 4 * length;
    return new Float32Array(bytes.buffer, bytes.byteOffset, length);
  });
  const { step, running, history, moments, states, best } = header;
  const [parameters, ...others] = arrays;
  const rest = others.slice(moments);
  return {
    kind: 'usable',
    checkpoint: {
      step,
      running,
      history,
      parameters: parameters!,
      moments: others.slice(0, moments),
      state: rest.slice(0, states),
      ...(best && { best: { ...best, parameters: rest[states]!, state: rest.slice(states + 1) } }),
    },
  };
}

/**
 * A digest of everything that decides a training's course. Key order inside plain records does not matter.
 * @param bytes network, data, and the teacher where there is one
 * @param settings recipe and seed
 */
export function trainingIdentity(bytes: readonly Uint8Array[], settings: unknown): string {
  const hash = createHash('sha256');
  for (const part of bytes) hash.update(createHash('sha256').update(part).digest());
  return hash.update(canonicalJson(settings)).digest('hex');
}

/** 1 knew no other optimiser than SGD. */
export const CHECKPOINT_FORMAT = 2;

interface Header {
  readonly format: number;
  readonly identity: string;
  readonly step: number;
  readonly running: RunningFigures;
  readonly history: readonly HistoryEntry[];
  readonly moments: number;
  readonly states: number;
  readonly lengths: readonly number[];
  readonly best?: { readonly step: number; readonly accuracy: number };
}

function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}
