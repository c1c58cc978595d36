import { readFileSync, readlinkSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { systemClock } from '../base/clock.ts';
import { byteLengthOf } from '../base/dtype.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { elementCount, isNumeric, type Tensor } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { checkDigest } from '../repository/digest.ts';
import type { TensorSpec } from '../repository/types.ts';
import {
  CARRIAGE,
  CONTROL,
  createRing,
  putTensors,
  RING_BATCH_ROOM,
  RING_SLOTS,
  takeTensors,
  viewOf,
} from './ring.ts';
import type { FromWorker, LoadCommand, LoadReport, Parcel, ToWorker } from './worker-messages.ts';

/**
 * The entry of an inference thread. It boots, waits for one network to load, warms it, and then answers requests
 * from its ring until it is told to stop. A thread reads its own clock: nobody can hand it one.
 */
async function main(port: MessagePort): Promise<void> {
  const isLowPriority = workerData.lowPriority === true && lowerPriority();
  const booted: FromWorker = { kind: 'booted', threadId: linuxThreadId(), isLowPriority };
  const command = await new Promise<ToWorker>((resolve) => {
    port.once('message', resolve);
    port.postMessage(booted);
  });
  if (command.kind === 'load') await serve(port, command);
  port.close();
}

/** Inferences before a version takes over: the first allocates, the second plans memory, the third is typical. */
export const WARMUP_RUNS = 3;

/** Inputs for warming are made up from this seed; their values do not matter, only that they are not all zero. */
const WARMUP_SEED = 1;

async function serve(port: MessagePort, command: LoadCommand): Promise<void> {
  let session: Session;
  let report: LoadReport;
  try {
    const startMs = systemClock.nowMs();
    session = await open(command);
    if (command.saveOptimizedTo !== undefined) {
      await session.release();
      port.postMessage({ kind: 'saved' } satisfies FromWorker);
      return;
    }
    const inputs = session.inputs.map(specOf);
    const outputs = session.outputs.map(specOf);
    const warm = await warmUp(session, inputs);
    const ring = createRing(
      RING_BATCH_ROOM * sizeAtBatchOne(inputs),
      RING_BATCH_ROOM * (warm?.outputBytes ?? sizeAtBatchOne(outputs)),
    );
    report = { ring, inputs, outputs, loadMs: systemClock.nowMs() - startMs, serviceMs: warm?.serviceMs };
  } catch (thrown) {
    const code = thrown instanceof BonsaiError ? thrown.code : 'load_failed';
    port.postMessage({ kind: 'failed', code, message: messageOf(thrown) } satisfies FromWorker);
    return;
  }
  port.postMessage({ kind: 'loaded', report } satisfies FromWorker);
  await answerUntilStopped(port, command.port, session, report);
  await session.release();
  command.port?.close();
}

/** The digest is checked on the very bytes that are loaded, here rather than on the socket thread. */
async function open(command: LoadCommand): Promise<Session> {
  const options = {
    intraOpThreads: command.intraOpThreads,
    optimization: command.isOptimized ? 'disabled' : 'all',
    optimizedModelPath: command.saveOptimizedTo,
  } as const;
  if (command.digest === undefined || command.isOptimized) return Session.create(command.modelPath, options);
  const bytes = readFileSync(command.modelPath);
  checkDigest(bytes, command.digest, command.modelPath);
  return Session.create(bytes, options);
}

async function answerUntilStopped(
  port: MessagePort,
  parcels: MessagePort | undefined,
  session: Session,
  report: LoadReport,
): Promise<void> {
  const { control, slots } = viewOf(report.ring);
  const inputTypes = report.inputs.map((spec) => spec.dtype);
  for (let sequence = 0; ; sequence++) {
    while (Atomics.load(control, CONTROL.submitted) === sequence) {
      if (Atomics.load(control, CONTROL.stop) !== 0) return;
      Atomics.wait(control, CONTROL.submitted, sequence);
      if (Atomics.load(control, CONTROL.stop) !== 0 && Atomics.load(control, CONTROL.submitted) === sequence)
        return;
    }
    const { request, answer } = slots[sequence % RING_SLOTS]!;
    try {
      const tensors =
        request.meta[0] === CARRIAGE.inline
          ? takeTensors(request, inputTypes)
          : takeParcel(parcels, sequence);
      const feeds: Record<string, Tensor> = {};
      report.inputs.forEach((spec, i) => {
        feeds[spec.name] = tensors[i]!;
      });
      const startMs = systemClock.nowMs();
      const results = await session.run(feeds);
      answer.meta[1] = Math.round((systemClock.nowMs() - startMs) * 1000);
      const outputs = report.outputs.map((spec) => results[spec.name]!);
      if (!putTensors(answer, outputs)) {
        answer.meta[0] = CARRIAGE.message;
        parcels?.postMessage({ sequence, tensors: outputs } satisfies Parcel);
      }
    } catch (thrown) {
      answer.meta[0] = CARRIAGE.failure;
      parcels?.postMessage({ sequence, failure: messageOf(thrown) } satisfies Parcel);
    }
    Atomics.store(control, CONTROL.completed, sequence + 1);
    // The socket thread clears the doorbell before it reads `completed`, so an answer is never overlooked.
    if (Atomics.exchange(control, CONTROL.doorbell, 1) === 0) port.postMessage(0 satisfies FromWorker);
  }
}

function takeParcel(parcels: MessagePort | undefined, sequence: number): readonly Tensor[] {
  const received = parcels === undefined ? undefined : receiveMessageOnPort(parcels);
  const parcel = received?.message as Parcel | undefined; // Only the socket thread's handle posts here.
  if (parcel?.sequence !== sequence || parcel.tensors === undefined) {
    throw new BonsaiError('engine_failure', `The tensors of request ${sequence} did not reach the worker.`);
  }
  return parcel.tensors;
}

/** Undefined where an inner size is open: no input can be made up that the network surely accepts. */
async function warmUp(
  session: Session,
  inputs: readonly TensorSpec[],
): Promise<{ serviceMs: number; outputBytes: number } | undefined> {
  if (inputs.some(({ dtype, shape }) => !isNumeric(dtype) || shape.slice(1).includes(-1))) return undefined;
  const feeds: Record<string, Tensor> = {};
  for (const spec of inputs) feeds[spec.name] = madeUpInput(spec);
  let serviceMs = Number.POSITIVE_INFINITY;
  let outputBytes = 0;
  for (let run = 0; run < WARMUP_RUNS; run++) {
    const startMs = systemClock.nowMs();
    const results = await session.run(feeds);
    serviceMs = Math.min(serviceMs, systemClock.nowMs() - startMs);
    outputBytes = Object.values(results).reduce((sum, tensor) => sum + tensor.bytes.byteLength + 8, 0);
  }
  return { serviceMs, outputBytes };
}

function madeUpInput({ dtype, shape }: TensorSpec): Tensor {
  const sizes = shape.map((size) => Math.max(size, 1));
  const count = elementCount(sizes);
  const bytes = new Uint8Array(byteLengthOf(dtype, count));
  if (dtype === 'float32') {
    const random = seededRandom(WARMUP_SEED);
    new Float32Array(bytes.buffer).set(Float32Array.from({ length: count }, () => random.uniform()));
  }
  return { dtype, shape: sizes, bytes };
}

function specOf(value: Session['inputs'][number]): TensorSpec {
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

/** The kernel's id of this thread (a worker's `threadId` is Node's own numbering); undefined outside Linux. */
function linuxThreadId(): number | undefined {
  try {
    return Number(readlinkSync('/proc/thread-self').split('/').at(-1));
  } catch {
    return undefined;
  }
}

function lowerPriority(): boolean {
  const thread = linuxThreadId();
  if (thread === undefined) return false; // Elsewhere a priority belongs to the whole process.
  try {
    setPriority(thread, constants.priority.PRIORITY_LOW);
    return true;
  } catch {
    return false;
  }
}

if (parentPort !== null) await main(parentPort);
