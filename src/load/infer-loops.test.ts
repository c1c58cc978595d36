import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { findMaximalThroughput, measureThroughput } from './closed-loop.ts';
import { runJointLoop } from './joint-loop.ts';
import type { LabelledInputs } from './labelled-inputs.ts';
import { runOpenLoop } from './open-loop.ts';

// Four inputs of two floats; item k is [k, label]. The server answers with the second float as its class,
// so it is right unless a test makes it lie.
const labels = [2, 0, 1, 2];
const inputs: LabelledInputs = {
  inputName: 'image',
  outputName: 'logits',
  dtype: 'float32',
  itemShape: [2],
  bytes: new Uint8Array(Float32Array.from(labels.flatMap((label, k) => [k, label])).buffer),
  labels,
};

interface Received {
  readonly item: number;
  readonly label: number;
  readonly head: unknown;
  readonly path: string;
}

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

/** A real server of the inference protocol; `behave` decides what to do with each request. */
async function startServer(
  behave: (
    received: Received,
    answer: (label?: number) => void,
    response: ServerResponse,
    count: number,
  ) => void,
): Promise<string> {
  let count = 0;
  const server = createServer(async (request, response) => {
    const body = await bodyOf(request);
    const headLength = Number(request.headers['inference-header-content-length']);
    const [item, label] = new Float32Array(body.slice(headLength).buffer);
    const head = JSON.parse(new TextDecoder().decode(body.subarray(0, headLength)));
    const answer = (wanted = label!) => {
      const logits = new Float32Array(3);
      logits[wanted] = 1;
      const answerHead = JSON.stringify({
        model_name: 'm',
        model_version: '7',
        outputs: [{ name: 'logits', datatype: 'FP32', shape: [1, 3], parameters: { binary_data_size: 12 } }],
      });
      response.setHeader('content-type', 'application/octet-stream');
      response.setHeader('inference-header-content-length', Buffer.byteLength(answerHead));
      response.end(Buffer.concat([Buffer.from(answerHead), Buffer.from(logits.buffer)]));
    };
    behave({ item: item!, label: label!, head, path: request.url! }, answer, response, count++);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`; // A TCP server's address is one.
}

async function bodyOf(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return new Uint8Array(Buffer.concat(chunks));
}

const every = (gapMs: number, count: number) => Float64Array.from({ length: count }, (_, i) => i * gapMs);

const run = (url: string, options: Partial<Parameters<typeof runOpenLoop>[0]> = {}) =>
  runOpenLoop({
    url,
    model: 'm',
    inputs,
    dueTimesMs: every(5, 40),
    sloMs: 400,
    timeoutMs: 5000,
    seed: 1,
    clock: systemClock,
    ...options,
  });

describe('the open loop', () => {
  it('sends binary tensor requests for every item in turn and scores the answers', async () => {
    const received: Received[] = [];
    const url = await startServer((request, answer) => {
      received.push(request);
      // Item 1 (label 0) is always taken for class 2.
      answer(request.item === 1 ? 2 : undefined);
    });
    const records = await run(url, { version: '7' });
    expect(records).toHaveLength(40);
    expect(
      records.every(({ outcome, status, version }) => outcome === 'ok' && status === 200 && version === '7'),
    ).toBe(true);
    expect(records.filter(({ correct }) => !correct)).toHaveLength(10);
    expect(received[0]).toMatchObject({
      path: '/v2/models/m/versions/7/infer',
      head: {
        inputs: [{ name: 'image', shape: [1, 2], datatype: 'FP32', parameters: { binary_data_size: 8 } }],
        outputs: [{ name: 'logits', parameters: { binary_data: true } }],
      },
    });
    for (const item of [0, 1, 2, 3]) expect(received.filter((r) => r.item === item)).toHaveLength(10);
  });

  it('never sends early, and keeps due and sent times apart', async () => {
    const url = await startServer((_, answer) => answer());
    const records = await run(url);
    expect(records.map(({ dueMs }) => dueMs)).toEqual([...every(5, 40)]);
    expect(records.every(({ dueMs, sentMs }) => sentMs >= dueMs)).toBe(true);
  });

  it('omits nothing when the server stalls: requests due meanwhile leave, and show the wait', async () => {
    // One at a time, as a single worker: request 5 takes 300 ms and holds up all that come after it.
    let free = Promise.resolve();
    const url = await startServer((_, answer, __, count) => {
      free = free
        .then(() => (count === 5 ? new Promise((resolve) => setTimeout(resolve, 300)) : undefined))
        .then(() => answer());
    });
    const records = await run(url, { dueTimesMs: every(5, 80) });
    // Request 5 + k is due 5 k ms into the stall: it waits at least 300 − 5 k ms (a few ms for clocks).
    for (let k = 0; k < 40; k++) expect(records[5 + k]!.latencyMs).toBeGreaterThan(300 - 5 * k - 10);
  });

  it('counts latency from the due time even where the client itself is the one that waits', async () => {
    const url = await startServer((_, answer) => setTimeout(answer, 40));
    const records = await run(url, { dueTimesMs: [0, 0, 0], connections: 1 });
    const latencies = records.map(({ latencyMs }) => latencyMs).sort((a, b) => a - b);
    expect(latencies[2]).toBeGreaterThan(110);
  });

  it('lets tasks share sockets as they need them', async () => {
    const waiting: (() => void)[] = [];
    // Both requests of the one task have to be there at once; the other task has none when they come.
    const url = await startServer(({ path }, answer) => {
      if (!path.includes('busy')) return answer();
      waiting.push(answer);
      if (waiting.length === 2) for (const each of waiting) each();
    });
    const records = await runJointLoop({
      url,
      tasks: [
        { model: 'busy', inputs, dueTimesMs: [0, 0], seed: 1 },
        { model: 'quiet', inputs, dueTimesMs: [100], seed: 2 },
      ],
      connections: 2,
      startDelayMs: 10,
      ...{ sloMs: 400, timeoutMs: 2000, clock: systemClock },
    });
    expect(records.flat().map(({ outcome }) => outcome)).toEqual(['ok', 'ok', 'ok']);
  });

  it('tells refusals, failures, dropped connections and timeouts apart', async () => {
    const url = await startServer((_, answer, response, count) => {
      if (count === 0) response.writeHead(503, { 'retry-after': '1' }).end('{"error":"queue is full"}');
      else if (count === 1) response.writeHead(500).end('{"error":"broken"}');
      else if (count === 2) response.destroy();
      else if (count === 3) response.writeHead(200).end('not json');
      else if (count === 4) response.writeHead(504).end();
      else if (count > 5) answer(); // Request 5 is never answered.
    });
    const records = await run(url, { dueTimesMs: every(30, 8), timeoutMs: 150 });
    expect(records.map(({ outcome }) => outcome)).toEqual([
      'refused',
      'error',
      'error',
      'error',
      'timeout',
      'timeout',
      'ok',
      'ok',
    ]);
    expect(records[0]).toMatchObject({ status: 503, reason: '{"error":"queue is full"}' });
    expect(records[2]).toMatchObject({ status: 0 });
    expect(records[5]!.latencyMs).toBeGreaterThanOrEqual(150);
  });

  it('records what it may not send instead of dropping it', async () => {
    const url = await startServer(() => {});
    const records = await run(url, { dueTimesMs: every(1, 20), maxOutstanding: 4, timeoutMs: 200 });
    expect(records.filter(({ outcome }) => outcome === 'timeout')).toHaveLength(4);
    expect(records.filter(({ reason }) => reason?.startsWith('not sent'))).toHaveLength(16);
  });

  it('records an unreachable server as errors', async () => {
    const records = await run('http://127.0.0.1:9', { dueTimesMs: [0, 1] });
    expect(records).toMatchObject([
      { outcome: 'error', reason: expect.stringMatching(/ECONNREFUSED/) },
      { outcome: 'error' },
    ]);
  });

  it('stops sending when told to, and tells its progress', async () => {
    const url = await startServer((_, answer) => answer());
    const abort = new AbortController();
    const told: number[] = [];
    const records = await run(url, {
      dueTimesMs: every(10, 1000),
      signal: abort.signal,
      onProgress: ({ finished }) => {
        told.push(finished);
        if (finished >= 10) abort.abort();
      },
    });
    expect(records.length).toBeGreaterThanOrEqual(10);
    expect(records.length).toBeLessThan(500);
    expect(told.at(-1)).toBe(records.length);
  });

  it('refuses unusable inputs and due times', async () => {
    await expect(run('nowhere')).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(run('http://h', { dueTimesMs: [2, 1] })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(run('http://h', { inputs: { ...inputs, labels: [1] } })).rejects.toMatchObject({
      code: 'invalid_argument',
    });
  });
});

describe('the closed loop', () => {
  const options = { model: 'm', inputs, clock: systemClock, seed: 1, warmupMs: 50, durationMs: 200 };

  it('finds where throughput stops rising', async () => {
    // Two workers of 10 ms: 100 answers/s with one request under way, 200 with two or more.
    const workers = [Promise.resolve(), Promise.resolve()];
    const url = await startServer((_, answer, __, count) => {
      workers[count % 2] = workers[count % 2]!.then(
        () => new Promise((resolve) => setTimeout(resolve, 10)),
      ).then(() => answer());
    });
    const found = await findMaximalThroughput({ ...options, url, repeats: 2 });
    const [one, two] = found.measurements;
    expect(two!.throughputRps / one!.throughputRps).toBeGreaterThan(1.4);
    expect(found.concurrency).toBeGreaterThanOrEqual(2);
    expect(found.throughputRps.count).toBe(2);
    expect(found.throughputRps.min).toBeLessThanOrEqual(found.throughputRps.median);
    expect(one).toMatchObject({ failed: 0, accuracy: 1 });
  });

  it('looks beyond one step without a rise', async () => {
    // One answer in 20 ms, but four at once where four wait: 50/s with one or two under way, 200 with four.
    const waiting: (() => void)[] = [];
    const timer = setInterval(() => {
      for (const answer of waiting.splice(0, waiting.length >= 4 ? 4 : 1)) answer();
    }, 20);
    const url = await startServer((_, answer) => waiting.push(answer));
    try {
      const found = await findMaximalThroughput({ ...options, url, concurrencies: [1, 2, 4], repeats: 1 });
      expect(found.concurrency).toBe(4);
    } finally {
      clearInterval(timer);
    }
  });

  it('counts refusals without hammering the server', async () => {
    const url = await startServer((_, answer, response, count) => {
      if (count % 2 === 0) answer();
      else response.writeHead(503).end();
    });
    const { answered, failed } = await measureThroughput({ ...options, url, concurrency: 1 });
    expect(answered).toBeGreaterThan(0);
    expect(failed).toBeLessThan(200 / 10 + 1); // A pause of 10 ms after each.
  });

  it('gives a typed error where nothing answers, and when aborted', async () => {
    await expect(
      measureThroughput({ ...options, url: 'http://127.0.0.1:9', concurrency: 1 }),
    ).rejects.toMatchObject({ code: 'server_unreachable', message: expect.stringMatching(/ECONNREFUSED/) });
    const url = await startServer((_, answer) => answer());
    await expect(
      measureThroughput({ ...options, url, concurrency: 1, signal: AbortSignal.abort() }),
    ).rejects.toMatchObject({ code: 'aborted' });
  });
});
