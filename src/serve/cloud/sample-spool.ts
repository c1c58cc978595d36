import { randomUUID } from 'node:crypto';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import { makeFolder } from '../../base/make-folder.ts';
import type { Random } from '../../base/random.ts';
import { writeAtomically } from '../../repository/atomic.ts';
import { datatypeOf } from '../../repository/datatypes.ts';
import type { InferAnswer, InferRequest } from '../data-plane.ts';
import type { Verdict } from './confidence.ts';

export interface SpoolOptions {
  /** Belongs to this spool alone. */
  readonly folder: string;
  /** Of the files; past it the oldest are dropped. */
  readonly limitBytes: number;
  /** Samples of a lower confidence are candidates, in (0, 1]. */
  readonly below: number;
  /** Share of the candidates that is kept, in (0, 1]. */
  readonly fraction: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** One line of a file; documented in docs/cloud.md. */
export interface SampleLine {
  readonly task: string;
  readonly version: number;
  /** SHA-256 of the network that answered, where it is known. */
  readonly digest?: string;
  /** ISO 8601. */
  readonly time: string;
  readonly class: number;
  readonly className?: string;
  /** Probability of that class, in [0, 1]. */
  readonly confidence: number;
  /** Of one example: the first size is 1; `data` is little-endian, row-major, in base64. */
  readonly inputs: readonly { name: string; datatype: string; shape: readonly number[]; data: string }[];
}

export interface SpoolCounts {
  readonly kept: number;
  /** Since the hand-off to the disk was full: it is slower than samples come. */
  readonly droppedBusy: number;
  /** Since the files had reached their limit. */
  readonly droppedOld: number;
  /** Since they could not be written. */
  readonly droppedUnwritten: number;
  /** In files that wait to be fetched or shipped. */
  readonly bytes: number;
}

export const spoolDefaults = {
  below: 0.6,
  fraction: 0.01,
  limitBytes: 1e9,
  /** Samples that wait for the disk; what comes beyond is dropped, since answers come first. */
  maxWaitingBytes: 4e6,
  /** How often they are written. */
  flushMs: 2_000,
} as const;

/** `<ISO time, safe in names>-<unique>-<samples>.jsonl` in a folder of the task. */
const FILE = /^[\w.-]+-(\d+)\.jsonl$/;

interface Waiting {
  readonly task: string;
  readonly line: () => SampleLine;
  readonly bytes: number;
}

/**
 * Keeps examples that a classifier was not sure of, for people to label and networks to learn from. An answer waits for
 * nothing here: a sample is copied and put into a bounded list, which is written to the disk from time to time.
 */
export class SampleSpool {
  readonly #options: SpoolOptions;
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #kept = 0;
  #droppedBusy = 0;
  #droppedOld = 0;
  #droppedUnwritten = 0;
  #bytes = 0;
  #hasFailed = false;

  private constructor(options: SpoolOptions) {
    this.#options = options;
  }

  /** @throws the system's error where the folder cannot be made */
  static async open(options: SpoolOptions): Promise<SampleSpool> {
    const spool = new SampleSpool(options);
    await makeFolder(options.folder);
    await spool.#enforceLimit();
    return spool;
  }

  get counts(): SpoolCounts {
    return {
      kept: this.#kept,
      droppedBusy: this.#droppedBusy,
      droppedOld: this.#droppedOld,
      droppedUnwritten: this.#droppedUnwritten,
      bytes: this.#bytes,
    };
  }

  /** Looks at the verdicts of an answer, and copies the examples that are wanted. */
  offer(request: InferRequest, answer: InferAnswer, verdicts: readonly Verdict[]): void {
    const { below, fraction, random } = this.#options;
    verdicts.forEach((verdict, row) => {
      if (verdict.confidence >= below || random.uniform() >= fraction) return;
      this.#take(request, answer, verdict, row, verdicts.length);
    });
  }

  /** Writes what waits; files are whole when it resolves. Never rejects. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const taken = this.#waiting;
    this.#waiting = [];
    this.#flushing = this.#flushing.then(() => this.#write(taken));
    return this.#flushing;
  }

  /** The files, the oldest first, as paths within the folder. */
  async files(): Promise<{ readonly name: string; readonly samples: number; readonly bytes: number }[]> {
    const { folder } = this.#options;
    const files: { name: string; samples: number; bytes: number; order: string }[] = [];
    for (const task of await readdir(folder)) {
      for (const file of await readdir(join(folder, task)).catch(() => [])) {
        const samples = FILE.exec(file)?.[1];
        if (samples === undefined) continue;
        const status = await stat(join(folder, task, file)).catch(() => undefined);
        if (status !== undefined)
          files.push({ name: `${task}/${file}`, samples: Number(samples), bytes: status.size, order: file });
      }
    }
    return files.sort((a, b) => (a.order < b.order ? -1 : 1));
  }

  read(name: string): Promise<Uint8Array> {
    return readFile(join(this.#options.folder, name));
  }

  /** Lets go of a file that has been shipped. */
  async remove(name: string, bytes: number): Promise<void> {
    await rm(join(this.#options.folder, name), { force: true });
    this.#bytes = Math.max(0, this.#bytes - bytes);
  }

  #take(request: InferRequest, answer: InferAnswer, verdict: Verdict, row: number, rows: number): void {
    const parts = request.inputs.map(({ name, dtype, shape, bytes, strings }) =>
      // Only what has a row for each verdict can be told apart.
      strings !== undefined || (rows > 1 && shape[0] !== rows)
        ? undefined
        : {
            name,
            dtype,
            shape: [1, ...shape.slice(1)],
            bytes: Buffer.from(
              bytes.subarray((row * bytes.length) / rows, ((row + 1) * bytes.length) / rows),
            ),
          },
    );
    if (parts.some((part) => part === undefined)) return;
    const size = parts.reduce((sum, part) => sum + part!.bytes.length, 0);
    if (this.#waitingBytes + size > spoolDefaults.maxWaitingBytes) {
      this.#droppedBusy++;
      return;
    }
    const stored = request.model.stored;
    const { version } = answer;
    const digest = stored?.versions.find((entry) => entry.version === version)?.variant?.digest;
    const className = stored?.manifest?.classes?.[verdict.class];
    const epochMs = this.#options.clock.epochMs();
    const task = request.model.name;
    this.#waitingBytes += size;
    // Text is made of it when it is written, away from the answer.
    const line = (): SampleLine => ({
      task,
      version,
      ...(digest !== undefined && { digest }),
      time: new Date(epochMs).toISOString(),
      class: verdict.class,
      ...(className !== undefined && { className }),
      confidence: verdict.confidence,
      inputs: parts.map((part) => ({
        name: part!.name,
        datatype: datatypeOf(part!.dtype),
        shape: part!.shape,
        data: part!.bytes.toString('base64'),
      })),
    });
    this.#waiting.push({ task, line, bytes: size });
    this.#timer ??= setTimeout(() => void this.flush(), spoolDefaults.flushMs).unref();
  }

  async #write(taken: readonly Waiting[]): Promise<void> {
    const { folder, limitBytes, clock, logger } = this.#options;
    for (const [task, samples] of byTaskOf(taken)) {
      for await (const { text, count } of textsOf(samples, limitBytes / FILES_IN_LIMIT)) {
        const stamp = new Date(clock.epochMs()).toISOString().replaceAll(':', '-');
        const name = `${stamp}-${randomUUID().slice(0, 8)}-${count}.jsonl`;
        try {
          await writeAtomically(join(folder, task, name), text);
          this.#kept += count;
          this.#hasFailed = false;
        } catch (thrown) {
          this.#droppedUnwritten += count;
          if (!this.#hasFailed)
            logger.error({ folder, reason: messageOf(thrown) }, 'samples cannot be kept and are dropped');
          this.#hasFailed = true;
        }
      }
    }
    this.#waitingBytes -= taken.reduce((sum, { bytes }) => sum + bytes, 0);
    if (taken.length > 0) await this.#enforceLimit().catch(() => undefined);
  }

  async #enforceLimit(): Promise<void> {
    const { folder, limitBytes } = this.#options;
    const files = await this.files();
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { name, samples, bytes } of files) {
      if (total <= limitBytes) break;
      await rm(join(folder, name), { force: true });
      total -= bytes;
      this.#droppedOld += samples;
    }
    this.#bytes = total;
  }
}

/** A file holds no more than such a part of what all may: the newest samples would be dropped with it, too. */
const FILES_IN_LIMIT = 4;

/** Files of as many samples as fit, one at least. Some samples at a time: between two times the sockets have their turn. */
async function* textsOf(
  samples: readonly Waiting[],
  maxBytes: number,
): AsyncIterable<{ readonly text: string; readonly count: number }> {
  let text = '';
  let count = 0;
  for (const [i, { line }] of samples.entries()) {
    const next = `${JSON.stringify(line())}\n`;
    if (count > 0 && text.length + next.length > maxBytes) {
      yield { text, count };
      [text, count] = ['', 0];
    }
    text += next;
    count++;
    if (i % SAMPLES_PER_TURN === SAMPLES_PER_TURN - 1) await setImmediate();
  }
  if (count > 0) yield { text, count };
}

/** Of 12 KB each, base64 and JSON take some 0.1 ms. */
const SAMPLES_PER_TURN = 8;

function byTaskOf(taken: readonly Waiting[]): Map<string, Waiting[]> {
  const groups = new Map<string, Waiting[]>();
  for (const item of taken) {
    const group = groups.get(item.task);
    if (group === undefined) groups.set(item.task, [item]);
    else group.push(item);
  }
  return groups;
}
