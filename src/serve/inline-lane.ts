import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import type { Tensor } from '../base/tensor.ts';
import { type PreparedRun, PreparedSession } from '../engine/prepared-session.ts';
import { WorkerLostError } from './errors.ts';
import { joined, type Lane, type RunResult } from './lane.ts';
import { PreparedRuns, WARMUP_RUNS } from './prepared-runs.ts';
import type { NetworkReport } from './worker-messages.ts';

/** The largest file of a network that is opened on the thread with the sockets: they wait some 2 ms for each MB. */
export const MAX_INLINE_BYTES = 4 * 1024 * 1024;

/** The sockets wait no longer than this for a job, if its network can be told to compute less at once. */
export const MAX_INLINE_JOB_MS = 12;

export interface InlineLaneOptions {
  readonly clock: Clock;
  readonly processCpuMs?: (() => number) | undefined;
}

/**
 * A network in the thread that has the sockets. To hand a request to another thread and its answer back takes some
 * 50 µs of CPU where both share one: for a network that is about as fast as that, it is half of the work. The sockets
 * wait while it computes, so only networks of short inferences are run like this, and a request of many examples in
 * parts, between which the sockets have their turn.
 */
export class InlineLane implements Lane {
  readonly isInline = true;
  readonly hasAnswer = false;
  readonly #session: PreparedSession;
  readonly #clock: Clock;
  readonly #processCpuMs: (() => number) | undefined;
  readonly #runs: PreparedRuns;
  /** Infinite where the network may mix rows. */
  readonly #rowsAtOnce: number;
  #lastShapes: readonly (readonly number[])[] = [];
  #lastRun: PreparedRun | undefined;
  #lostReason: string | undefined;
  onLost: Lane['onLost'] = () => undefined;

  /**
   * Opens and warms a network.
   * @param path of a file that ONNX Runtime has optimised on this machine
   * @param report of its rehearsal; of its inputs only the first size may be open
   * @param options.processCpuMs CPU time of the process, if that of inferences is to be measured
   * @throws BonsaiError `load_failed`, `engine_failure`
   */
  static async open(path: string, report: NetworkReport, options: InlineLaneOptions): Promise<InlineLane> {
    const session = await PreparedSession.create(path, { optimization: 'disabled' });
    const run = session.prepare(report.inputs.map(({ shape }) => shape.map((size) => Math.max(size, 1))));
    for (let i = 0; i < WARMUP_RUNS; i++) {
      await setImmediate(); // Others have their turn in between.
      try {
        await run.run();
      } catch (thrown) {
        // Zeros may be divisors or sizes where numbers are whole; in its rehearsal it took others.
        if (report.inputs.every(({ dtype }) => dtype === 'float32')) throw thrown;
        break;
      }
    }
    const { batchMs, serviceMs = MAX_INLINE_JOB_MS } = report;
    const rowsAtOnce = Math.max(1, Math.floor(MAX_INLINE_JOB_MS / serviceMs));
    return new InlineLane(session, options, batchMs === undefined ? Number.POSITIVE_INFINITY : rowsAtOnce);
  }

  private constructor(
    session: PreparedSession,
    { clock, processCpuMs }: InlineLaneOptions,
    rowsAtOnce: number,
  ) {
    this.#session = session;
    this.#rowsAtOnce = rowsAtOnce;
    this.#clock = clock;
    this.#processCpuMs = processCpuMs;
    this.#runs = new PreparedRuns(session);
  }

  get isLost(): boolean {
    return this.#lostReason !== undefined;
  }

  run(parts: readonly (readonly Tensor[])[]): Promise<RunResult> {
    if (this.#lostReason !== undefined) return Promise.reject(new WorkerLostError(this.#lostReason));
    try {
      const tensors = joined(parts);
      if ((tensors[0]?.shape[0] ?? 1) > this.#rowsAtOnce) return this.#runInParts(tensors);
      const startMs = this.#clock.nowMs();
      const startCpuMs = this.#processCpuMs?.();
      const outputs = this.#run(tensors);
      if (!(outputs instanceof Promise)) {
        const computeMs = this.#clock.nowMs() - startMs;
        if (startCpuMs === undefined) return Promise.resolve({ outputs, computeMs });
        // What helper threads used meanwhile is not the inference's.
        const cpuMs = Math.min(this.#processCpuMs!() - startCpuMs, computeMs);
        return Promise.resolve({ outputs, computeMs, cpuMs });
      }
      return outputs.then((values) => ({ outputs: values, computeMs: this.#clock.nowMs() - startMs }));
    } catch (thrown) {
      return Promise.reject(thrown);
    }
  }

  async close(): Promise<void> {
    await this.#session.release();
  }

  async crash(): Promise<void> {
    if (this.#lostReason !== undefined) return;
    this.#lostReason = 'told to crash';
    await this.close();
    this.onLost(new WorkerLostError(this.#lostReason));
  }

  async #runInParts(tensors: readonly Tensor[]): Promise<RunResult> {
    const rows = tensors[0]!.shape[0]!;
    const parts: (readonly Tensor[])[] = [];
    let computeMs = 0;
    for (let first = 0; first < rows; first += this.#rowsAtOnce) {
      if (first > 0) await setImmediate();
      if (this.#lostReason !== undefined) throw new WorkerLostError(this.#lostReason);
      const count = Math.min(this.#rowsAtOnce, rows - first);
      const startMs = this.#clock.nowMs();
      parts.push(await this.#run(tensors.map((tensor) => rowsOf(tensor, first, count))));
      computeMs += this.#clock.nowMs() - startMs;
    }
    return { outputs: joined(parts), computeMs };
  }

  #run(tensors: readonly Tensor[]): readonly Tensor[] | Promise<readonly Tensor[]> {
    if (tensors.some(({ strings }) => strings !== undefined)) return this.#session.run(tensors);
    const run = this.#preparedFor(tensors);
    tensors.forEach(({ bytes }, i) => {
      run.inputs[i]!.set(bytes);
    });
    return run.run();
  }

  #preparedFor(tensors: readonly Tensor[]): PreparedRun {
    if (this.#lastRun !== undefined && tensors.every(({ shape }, i) => isSame(shape, this.#lastShapes[i]!)))
      return this.#lastRun;
    this.#lastShapes = tensors.map(({ shape }) => [...shape]);
    this.#lastRun = this.#runs.for(this.#lastShapes);
    return this.#lastRun;
  }
}

function rowsOf(tensor: Tensor, first: number, count: number): Tensor {
  const { shape, bytes } = tensor;
  const size = bytes.byteLength / shape[0]!;
  return {
    ...tensor,
    shape: [count, ...shape.slice(1)],
    bytes: bytes.subarray(first * size, (first + count) * size),
  };
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}
