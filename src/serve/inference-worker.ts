import { readFileSync, statSync } from 'node:fs';
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { systemClock } from '../base/clock.ts';
import { byteLengthOf } from '../base/dtype.ts';
import { BonsaiError, type ErrorCode, messageOf } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { elementCount, floatsOf, isNumeric, type Tensor } from '../base/tensor.ts';
import { type PreparedRun, PreparedSession } from '../engine/prepared-session.ts';
import { checkDigest } from '../repository/digest.ts';
import type { TensorSpec } from '../repository/types.ts';
import { type EndedBell, ring } from './ended-bell.ts';
import { PreparedRuns, WARMUP_RUNS } from './prepared-runs.ts';
import {
  CARRIAGE,
  CONTROL,
  copyInto,
  createRing,
  putTensors,
  type Region,
  RING_BATCH_ROOM,
  RING_SLOTS,
  shapesIn,
  viewOf,
} from './ring.ts';
import { ownCpuMs } from './thread-cpu.ts';
import type {
  DeclaredSpecs,
  FromWorker,
  LoadCommand,
  LoadReport,
  NetworkReport,
  Parcel,
  RehearseCommand,
  ToWorker,
} from './worker-messages.ts';

/**
 * What an inference thread does: it waits for a network to load, warms it, and then answers requests from its ring
 * until it is told to stop. Before that it may rehearse networks that others will run. A thread reads its own clock: nobody
 * can hand it one.
 */
export async function answerRequests(port: MessagePort, bell: EndedBell): Promise<void> {
  let command: ToWorker | undefined = await nextCommand(port, { kind: 'booted' });
  while (command?.kind === 'rehearse') command = await rehearse(port, command);
  if (command?.kind === 'load') await serve(port, command, bell);
  port.close();
}

/** @param said that the thread is ready for it */
function nextCommand(port: MessagePort, said: FromWorker): Promise<ToWorker> {
  return new Promise((resolve) => {
    port.once('message', resolve);
    port.postMessage(said);
  });
}

/** Inputs for warming are made up from this seed; their values do not matter, only that they are not all zero. */
const WARMUP_SEED = 1;

/** Rows of the run that tells whether, and how fast, examples can be computed together. */
export const BATCH_PROBE_ROWS = 4;

/**
 * Joint runs and single ones in turn, of each the fastest counts: the first allocates, and the thread may be pushed aside. Rounds
 * go on for so long, so that a pause of the machine does not make short inferences seem what they are not.
 */
export const BATCH_PROBE_RUNS = 2;
export const BATCH_PROBE_ROUNDS = 4;
export const BATCH_PROBE_LIMIT_MS = 10;

/** Slower networks are not probed: jobs of several of their inferences would hold up others too long. */
export const BATCH_PROBE_MAX_MS = 20;

/** Larger files are not opened a second time for batches: twice their memory would be needed for a while. */
export const MAX_REOPENED_BYTES = 16 * 1024 * 1024;

async function serve(port: MessagePort, command: LoadCommand, bell: EndedBell): Promise<void> {
  let session: PreparedSession;
  let report: LoadReport;
  try {
    const measured = await measuredNetwork(command);
    session = measured.network.session;
    const { inputs, outputs } = measured.report;
    const ring = createRing(
      RING_BATCH_ROOM * sizeAtBatchOne(inputs),
      RING_BATCH_ROOM * (measured.network.warm?.outputBytes ?? sizeAtBatchOne(outputs)),
    );
    report = { ...measured.report, ring };
  } catch (thrown) {
    port.postMessage({ kind: 'failed', ...failureOf(thrown, 'load_failed') } satisfies FromWorker);
    return;
  }
  port.postMessage({ kind: 'loaded', report } satisfies FromWorker);
  await answerUntilStopped({ port, parcels: command.port, bell }, session, report);
  await session.release();
  command.port?.close();
}

/** @returns the next command; undefined where the network cannot be loaded */
async function rehearse(port: MessagePort, command: RehearseCommand): Promise<ToWorker | undefined> {
  const { modelPath, digest, optimizedPath } = command;
  try {
    const { network, report } = await measuredNetwork({
      modelPath,
      digest,
      isOptimized: false,
      intraOpThreads: 1,
      optimizedPath,
    });
    await network.session.release();
    return await nextCommand(port, { kind: 'rehearsed', report });
  } catch (thrown) {
    port.postMessage({ kind: 'failed', ...failureOf(thrown, 'load_failed') } satisfies FromWorker);
    return undefined;
  }
}

/** What is opened, and how. */
interface Opening extends Pick<LoadCommand, 'modelPath' | 'digest' | 'isOptimized' | 'intraOpThreads'> {
  /** Of an optimised file: what the original one says. */
  readonly declared?: DeclaredSpecs;
  /** Where the network is put as ONNX Runtime has optimised it. */
  readonly optimizedPath?: string;
}

async function measuredNetwork(
  opening: Opening,
): Promise<{ readonly network: WarmedNetwork; readonly report: NetworkReport }> {
  const startMs = systemClock.nowMs();
  const bytesBefore = process.memoryUsage.rss();
  const network = await warmedNetwork(opening);
  const { inputs, outputs } = opening.declared ?? network.declared;
  const report = {
    inputs,
    outputs,
    loadMs: systemClock.nowMs() - startMs,
    serviceMs: network.warm?.serviceMs,
    batchMs: network.warm?.batchMs,
    batchRows: BATCH_PROBE_ROWS,
    memoryBytes: Math.max(process.memoryUsage.rss() - bytesBefore, statSync(opening.modelPath).size),
  };
  return { network, report };
}

interface WarmedNetwork {
  readonly session: PreparedSession;
  /** What its file says. */
  readonly declared: DeclaredSpecs;
  readonly warm: WarmUp | undefined;
}

async function warmedNetwork(opening: Opening): Promise<WarmedNetwork> {
  const model = checkedModel(opening);
  const session = await open(opening, model);
  const declared = specsOf(session);
  const warm = await warmUp(session, declared, opening.intraOpThreads);
  if (warm === undefined || warm.serviceMs > BATCH_PROBE_MAX_MS || !declared.inputs.every(isSingle))
    return { session, declared, warm };
  const wide = await openedForBatches(opening, model, session);
  if (wide === undefined) return { session, declared, warm };
  await session.release();
  const { aloneMs: serviceMs, batchMs } = wide.probe;
  return { session: wide.session, declared, warm: { ...warm, serviceMs, batchMs } };
}

/**
 * A network whose file says a batch of 1, opened for requests to be computed together.
 * @returns undefined where it does not compute the same then, or mixes rows
 */
async function openedForBatches(
  opening: Opening,
  model: string | Uint8Array,
  session: PreparedSession,
): Promise<{ session: PreparedSession; probe: BatchProbe } | undefined> {
  if (opening.isOptimized || statSync(opening.modelPath).size > MAX_REOPENED_BYTES) return undefined;
  let wide: PreparedSession | undefined;
  try {
    // What reads and writes networks takes memory that most servers never need.
    const { openBatch } = await import('../engine/open-batch.ts');
    const bytes = openBatch(typeof model === 'string' ? readFileSync(model) : model);
    wide = bytes && (await open(opening, bytes));
    if (wide !== undefined && (await computesSame(session, wide))) {
      const probe = await probeBatch(wide, specsOf(wide), opening.intraOpThreads);
      if (probe !== undefined) return { session: wide, probe };
    }
  } catch {
    // It stays as it is in its file.
  }
  await wide?.release();
  if (opening.optimizedPath !== undefined) await (await open(opening, model)).release();
  return undefined;
}

function open(opening: Opening, model: string | Uint8Array): Promise<PreparedSession> {
  return PreparedSession.create(model, {
    intraOpThreads: opening.intraOpThreads,
    optimization: opening.isOptimized ? 'disabled' : 'all',
    optimizedModelPath: opening.optimizedPath,
  });
}

/** The digest is checked on the very bytes that are loaded, here rather than on the socket thread. */
function checkedModel({ modelPath, digest, isOptimized }: Opening): string | Uint8Array {
  if (digest === undefined || isOptimized) return modelPath;
  const bytes = readFileSync(modelPath);
  checkDigest(bytes, digest, modelPath);
  return bytes;
}

/** Ways to the socket thread. */
interface Wires {
  readonly port: MessagePort;
  readonly parcels: MessagePort | undefined;
  readonly bell: EndedBell;
}

async function answerUntilStopped(
  { port, parcels, bell }: Wires,
  session: PreparedSession,
  report: LoadReport,
): Promise<void> {
  const { control, slots } = viewOf(report.ring);
  const ringInputs = new RingInputs(session);
  for (let sequence = 0; ; sequence++) {
    while (Atomics.load(control, CONTROL.submitted) === sequence) {
      crashIfTold(control);
      if (Atomics.load(control, CONTROL.stop) !== 0) return;
      Atomics.wait(control, CONTROL.submitted, sequence);
      if (Atomics.load(control, CONTROL.stop) !== 0 && Atomics.load(control, CONTROL.submitted) === sequence)
        return;
    }
    const { request, answer } = slots[sequence % RING_SLOTS]!;
    try {
      const run =
        request.meta[0] === CARRIAGE.inline
          ? ringInputs.take(request)
          : () => session.run(takeParcel(parcels, sequence));
      const startMs = systemClock.nowMs();
      const results = run();
      const outputs = results instanceof Promise ? await results : results;
      answer.meta[1] = Math.round((systemClock.nowMs() - startMs) * 1000);
      if (!putTensors(answer, outputs)) {
        answer.meta[0] = CARRIAGE.message;
        parcels?.postMessage({ sequence, tensors: outputs } satisfies Parcel);
      }
    } catch (thrown) {
      answer.meta[0] = CARRIAGE.failure;
      parcels?.postMessage({ sequence, failure: failureOf(thrown, 'engine_failure') } satisfies Parcel);
    }
    crashIfTold(control);
    Atomics.store(control, CONTROL.completed, sequence + 1);
    // The socket thread clears the doorbell before it reads `completed`, so an answer is never overlooked.
    if (Atomics.exchange(control, CONTROL.doorbell, 1) === 0) port.postMessage(0 satisfies FromWorker);
    ring(bell);
  }
}

function failureOf(thrown: unknown, otherwise: ErrorCode): { code: ErrorCode; message: string } {
  return { code: thrown instanceof BonsaiError ? thrown.code : otherwise, message: messageOf(thrown) };
}

/** Drills end a thread here, between inferences, where Node can end it without ending the process. */
function crashIfTold(control: Int32Array): void {
  if (Atomics.load(control, CONTROL.crash) !== 0) throw new Error('told to crash');
}

/** Copies the inputs of requests out of the ring, since ONNX Runtime refuses shared memory, to those of prepared runs. */
class RingInputs {
  readonly #runs: PreparedRuns;
  #last: { readonly meta: Int32Array; readonly run: PreparedRun } | undefined;

  constructor(session: PreparedSession) {
    this.#runs = new PreparedRuns(session);
  }

  /** @returns runs the network on the inputs of this request */
  take(request: Region): PreparedRun['run'] {
    const prepared = this.#preparedFor(request);
    copyInto(request, prepared.inputs);
    return prepared.run;
  }

  #preparedFor(request: Region): PreparedRun {
    const { meta } = request;
    if (this.#last !== undefined && hasSameShapes(this.#last.meta, meta)) return this.#last.run;
    const run = this.#runs.for(shapesIn(request));
    this.#last = { meta: meta.slice(), run };
    return run;
  }
}

/** The first words are no shapes; a rank precedes its sizes, so equal words mean equal shapes. */
function hasSameShapes(a: Int32Array, b: Int32Array): boolean {
  if (a[2] !== b[2]) return false;
  let word = 3;
  for (let tensor = 0; tensor < a[2]!; tensor++) {
    const end = word + 1 + a[word]!;
    for (; word < end; word++) if (a[word] !== b[word]) return false;
  }
  return true;
}

function takeParcel(parcels: MessagePort | undefined, sequence: number): readonly Tensor[] {
  const received = parcels === undefined ? undefined : receiveMessageOnPort(parcels);
  const parcel = received?.message as Parcel | undefined; // Only the socket thread's handle posts here.
  if (parcel?.sequence !== sequence || parcel.tensors === undefined) {
    throw new BonsaiError('engine_failure', `The tensors of request ${sequence} did not reach the worker.`);
  }
  return parcel.tensors;
}

interface WarmUp {
  readonly serviceMs: number;
  readonly batchMs: number | undefined;
  readonly outputBytes: number;
}

/** Undefined where an inner size is open: no input can be made up that the network surely accepts. */
async function warmUp(
  session: PreparedSession,
  specs: DeclaredSpecs,
  threads: number,
): Promise<WarmUp | undefined> {
  const { inputs } = specs;
  if (inputs.some(({ dtype, shape }) => !isNumeric(dtype) || shape.slice(1).includes(-1))) return undefined;
  const feeds = await acceptedInput(session, inputs);
  if (feeds === undefined) return undefined;
  const { results, runMs: serviceMs } = await timed(session, feeds, WARMUP_RUNS, threads);
  const outputBytes = results.reduce((sum, tensor) => sum + tensor.bytes.byteLength + 8, 0);
  const probe = serviceMs <= BATCH_PROBE_MAX_MS ? await probeBatch(session, specs, threads) : undefined;
  return {
    serviceMs: Math.min(serviceMs, probe?.aloneMs ?? serviceMs),
    outputBytes,
    batchMs: probe?.batchMs,
  };
}

/** An inference that took so many times its CPU time waited for others most of it. */
const WAITED_RATIO = 3;

/**
 * Runs inferences of the same inputs, two at least.
 * @returns the time of the shortest, or the CPU time of one behind the first, if all waited most of their time: a thread of
 *   low priority waits a hundred times as long as it computes where others need all that a quota gives
 */
async function timed(
  session: PreparedSession,
  feeds: readonly Tensor[],
  runs: number,
  threads: number,
): Promise<{ readonly results: readonly Tensor[]; readonly runMs: number }> {
  let results: readonly Tensor[] = [];
  let runMs = Number.POSITIVE_INFINITY;
  let sinceCpuMs: number | undefined;
  for (let run = 0; run < runs; run++) {
    if (run === 1 && threads === 1) sinceCpuMs = ownCpuMs();
    const startMs = systemClock.nowMs();
    results = await session.run(feeds);
    runMs = Math.min(runMs, systemClock.nowMs() - startMs);
  }
  const cpuMs = sinceCpuMs === undefined ? runMs : (ownCpuMs()! - sinceCpuMs) / (runs - 1); // As it was told before.
  return { results, runMs: runMs > WAITED_RATIO * cpuMs ? cpuMs : runMs };
}

/**
 * An example that the network computes. What a float is worth hardly matters to it, but whole numbers may be divisors, sizes or indices:
 * zeros are tried, then ones.
 * @returns undefined where it takes neither, and requests may know better
 * @throws BonsaiError `engine_failure` for a network of floats that fails
 */
async function acceptedInput(
  session: PreparedSession,
  inputs: readonly TensorSpec[],
): Promise<readonly Tensor[] | undefined> {
  const zeros = inputs.map((spec) => madeUpInput(spec, 1));
  const isOfFloats = inputs.every(({ dtype }) => dtype === 'float32');
  if (isOfFloats) return zeros;
  for (const feeds of [zeros, inputs.map((spec) => madeUpInput(spec, 1, 1))]) {
    try {
      await session.run(feeds);
      return feeds;
    } catch {
      // Perhaps of the values.
    }
  }
  return undefined;
}

/** Whether its first size is open and it can be compared by rows. Of other types no example can be made up that tells. */
function isRowWise({ dtype, shape }: TensorSpec): boolean {
  return dtype === 'float32' && shape[0] === -1;
}

/** Whether its file says a batch of 1, and it can be compared. */
function isSingle({ dtype, shape }: TensorSpec): boolean {
  return dtype === 'float32' && shape[0] === 1;
}

/** Kernels add up in another order for larger batches, by some 1e-6; rows that mix differ by far more. */
const ROW_TOLERANCE = 1e-3;

/** Times of a run over `BATCH_PROBE_ROWS` examples, and of one over one of them, under the same load. */
interface BatchProbe {
  readonly batchMs: number;
  readonly aloneMs: number;
}

/**
 * An open first size need not be a batch: a softmax over it, or statistics of the batch, mix the rows. So examples are
 * computed together only by networks of which the rows of a joint run are seen to be those of single ones.
 * @returns undefined if rows mix, or cannot be compared
 */
async function probeBatch(
  session: PreparedSession,
  { inputs, outputs }: DeclaredSpecs,
  threads: number,
): Promise<BatchProbe | undefined> {
  if (![...inputs, ...outputs].every(isRowWise)) return undefined;
  try {
    const joint = inputs.map((spec) => madeUpInput(spec, BATCH_PROBE_ROWS));
    const single = joint.map((tensor) => rowOf(tensor, 0, BATCH_PROBE_ROWS));
    const together = await session.run(joint);
    for (const row of [0, BATCH_PROBE_ROWS - 1]) {
      const alone = await session.run(joint.map((tensor) => rowOf(tensor, row, BATCH_PROBE_ROWS)));
      const rows = together.map((tensor) => {
        if (tensor.shape[0] !== BATCH_PROBE_ROWS) return undefined;
        return rowOf(tensor, row, BATCH_PROBE_ROWS);
      });
      if (!alone.every((tensor, i) => rows[i] !== undefined && isClose(tensor, rows[i]))) return undefined;
    }
    const startMs = systemClock.nowMs();
    let batchMs = Number.POSITIVE_INFINITY;
    let aloneMs = Number.POSITIVE_INFINITY;
    for (let round = 0; round < BATCH_PROBE_ROUNDS; round++) {
      batchMs = Math.min(batchMs, (await timed(session, joint, BATCH_PROBE_RUNS, threads)).runMs);
      aloneMs = Math.min(aloneMs, (await timed(session, single, BATCH_PROBE_RUNS, threads)).runMs);
      if (systemClock.nowMs() - startMs > BATCH_PROBE_LIMIT_MS) break;
    }
    return { batchMs, aloneMs };
  } catch {
    return undefined; // A network that fails on several examples takes them one by one.
  }
}

/** Whether both give the same for a single example. */
async function computesSame(session: PreparedSession, other: PreparedSession): Promise<boolean> {
  const feeds = specsOf(session).inputs.map((spec) => madeUpInput(spec, 1));
  const [expected, actual] = [await session.run(feeds), await other.run(feeds)];
  return expected.every((tensor, i) => isClose(tensor, actual[i]!));
}

function rowOf({ dtype, shape, bytes }: Tensor, row: number, rows: number): Tensor {
  const size = bytes.byteLength / rows;
  return { dtype, shape: [1, ...shape.slice(1)], bytes: bytes.slice(row * size, (row + 1) * size) };
}

function isClose(a: Tensor, b: Tensor): boolean {
  const [x, y] = [floatsOf(a), floatsOf(b)];
  const scale = x.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-3);
  return x.length === y.length && x.every((value, i) => Math.abs(value - y[i]!) <= ROW_TOLERANCE * scale);
}

/** @param rows the first size, where it is open @param whole what is put for numbers that are not float32 */
function madeUpInput({ dtype, shape }: TensorSpec, rows: number, whole = 0): Tensor {
  const sizes = shape.map((size, axis) => (size >= 0 ? size : axis === 0 ? rows : 1));
  const count = elementCount(sizes);
  const bytes = new Uint8Array(byteLengthOf(dtype, count));
  if (dtype === 'float32') {
    const random = seededRandom(WARMUP_SEED);
    new Float32Array(bytes.buffer).set(Float32Array.from({ length: count }, () => random.uniform()));
  } else if (whole !== 0 && count > 0) {
    const size = bytes.byteLength / count;
    // Little-endian; of other floating-point types a tiny number.
    for (let i = 0; i < count; i++) bytes[i * size] = whole;
  }
  return { dtype, shape: sizes, bytes };
}

function specsOf(session: PreparedSession): DeclaredSpecs {
  return { inputs: session.inputs.map(specOf), outputs: session.outputs.map(specOf) };
}

function specOf(value: PreparedSession['inputs'][number]): TensorSpec {
  if (value.type === undefined) {
    throw new BonsaiError(
      'unsupported',
      `"${value.name}" is not a tensor; only networks over tensors can be served.`,
    );
  }
  const shape = (value.type.shape ?? []).map((size) => (typeof size === 'number' && size >= 0 ? size : -1));
  return { name: value.name, dtype: value.type.dtype, shape };
}

function sizeAtBatchOne(specs: readonly TensorSpec[]): number {
  return specs.reduce(
    (sum, { dtype, shape }) =>
      sum + byteLengthOf(dtype, elementCount(shape.map((size) => Math.max(size, 1)))) + 8,
    0,
  );
}
