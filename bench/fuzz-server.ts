import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import pino from 'pino';
import { systemClock } from '../src/base/clock.ts';
import { GraphBuilder, modelOf } from '../src/graph/build.ts';
import { writeModel } from '../src/graph/onnx/write.ts';
import { type RunningServer, startServer } from '../src/serve/server.ts';

/** Requests under way at a time. */
export const CONCURRENCY = 8;

/** A request that has no answer by then counts as hanging. */
export const HANG_MS = 30_000;

/** The model "echo" gives its input "x", so many FP32 values, as "y". */
export const SIZE = 3;

/** A body may not be longer. */
export const MAX_BODY_BYTES = 100_000;

export interface Answer {
  /** As the protocol tells it; `closed` or `none` where it does not. */
  readonly status: string;
  readonly text: string;
  readonly isRefusal: boolean;
}

/** A protocol, and requests in it that must be refused. */
export interface Fuzzed<Sample> {
  readonly protocol: string;
  readonly malformed: fc.Arbitrary<Sample>;
  open(server: RunningServer): {
    ask(sample: Sample): Promise<Answer>;
    /** Whether a good request is still answered. */
    isServed(): Promise<boolean>;
    close(): Promise<void> | void;
  };
}

/** How requests were answered that were to be refused. */
export interface FuzzOutcome {
  /** Answers by status. */
  readonly statuses: ReadonlyMap<string, number>;
  /** What was not refused, as text to try again. Beyond some twenty they are left out. */
  readonly failures: readonly string[];
  readonly heapGrowthBytes: number;
}

/** Sends so many malformed requests to a server of its own. */
export async function fuzz<Sample>(
  { malformed, open }: Fuzzed<Sample>,
  count: number,
  seed: number,
): Promise<FuzzOutcome> {
  const root = await mkdtemp(join(tmpdir(), 'bonsai-fuzz-'));
  const b = new GraphBuilder('echo');
  b.output(b.op('Identity', [b.input('x', 'float32', [SIZE])], {}, { outputs: ['y'] }), 'float32', [SIZE]);
  await mkdir(join(root, 'echo', '1'), { recursive: true });
  await writeFile(join(root, 'echo', '1', 'model.onnx'), writeModel(modelOf(b.finish())));
  const server = await startServer({
    repository: root,
    logger: pino({ level: 'silent' }),
    clock: systemClock,
    httpPort: 0,
    grpcPort: 0,
    metricsPort: 0,
    limits: { maxBodyBytes: MAX_BODY_BYTES },
  });
  const client = open(server);
  const statuses = new Map<string, number>();
  const failures: string[] = [];
  const samples = requestsOf(malformed, count, seed);
  const heapBefore = process.memoryUsage().heapUsed;
  const worker = async () => {
    for (const sample of samples) {
      const answer = await client.ask(sample);
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      if (!answer.isRefusal && failures.length < 20)
        failures.push(`${answer.status} ${answer.text}: ${shown(sample)}`);
    }
  };
  try {
    await Promise.all(Array.from({ length: CONCURRENCY }, worker));
    if (!(await client.isServed())) failures.push('the server does not serve any more');
  } finally {
    await client.close();
    await server.close();
    await rm(root, { recursive: true, force: true });
  }
  return { statuses, failures, heapGrowthBytes: process.memoryUsage().heapUsed - heapBefore };
}

/** Drawn as they are needed, some at a time. */
function* requestsOf<Sample>(
  malformed: fc.Arbitrary<Sample>,
  count: number,
  seed: number,
): Generator<Sample> {
  const portion = 500;
  for (let done = 0; done < count; done += portion)
    yield* fc.sample(malformed, { seed: seed + done, numRuns: Math.min(portion, count - done) });
}

function shown(sample: unknown): string {
  return JSON.stringify(sample, (_, value) =>
    value instanceof Uint8Array || value?.type === 'Buffer'
      ? `base64:${Buffer.from(value.data ?? value).toString('base64')}`
      : value,
  ).slice(0, 1000);
}
