import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import pino from 'pino';
import { request } from 'undici';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { BonsaiError } from '../base/errors.ts';
import { float32Tensor, floatsOf, int64Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { batchServiceMs, type Dispatch, type DispatchDecision } from '../policy/dispatch.ts';
import { digestOf } from '../repository/digest.ts';
import { writeTask } from '../repository/store.ts';
import { folderStore, type TaskStore } from '../repository/task-store.ts';
import { MANIFEST_SCHEMA_VERSION, type Variant } from '../repository/types.ts';
import { DataPlane, type InferRequest, MAX_TRIAL_MS } from './data-plane.ts';
import { decodeInfer } from './grpc/infer.ts';
import { InlineLane } from './inline-lane.ts';
import { MAX_MERGED_ROWS, MAX_OVERHEAD_MS, OVERHEAD_SHARED_RATIO } from './live-version.ts';
import { call, start } from './server.fixture.ts';
import type { RunningServer } from './server.ts';
import type { Wishes } from './wishes.ts';
import { WorkerHandle } from './worker-handle.ts';

const WIDTH = 4;

/** logits = 10 · version + sum(image) per row; `mixes`: the mean over the rows is taken off, so they depend on each other. */
function scorer(
  version: number,
  options: { slowness?: number; mixes?: boolean; batch?: 1 } = {},
): Uint8Array {
  const { batch = 'N' } = options;
  const b = new GraphBuilder('scorer');
  let x = b.input('image', 'float32', [batch, WIDTH]);
  if (batch === 1) x = b.op('Reshape', [x, b.constant(int64Tensor([1, WIDTH]))]);
  if (options.mixes) x = b.op('Sub', [x, b.op('ReduceMean', [x], { axes: [0], keepdims: 1 })]);
  if (options.slowness !== undefined) {
    // A wide detour that contributes 0; reading the weights costs more than computing, so that batches pay.
    const wide = 512;
    let detour = b.op('MatMul', [
      x,
      b.constant(float32Tensor([WIDTH, wide], new Float32Array(WIDTH * wide))),
    ]);
    const w = b.constant(float32Tensor([wide, wide], new Float32Array(wide * wide).fill(1e-9)));
    for (let i = 0; i < options.slowness; i++) detour = b.op('Relu', [b.op('MatMul', [detour, w])]);
    x = b.op('Add', [x, b.op('ReduceMean', [detour], { axes: [1], keepdims: 1 })]);
  }
  const sum = b.op('MatMul', [x, b.constant(float32Tensor([WIDTH, 1], [1, 1, 1, 1]))]);
  b.output(b.op('Add', [sum, b.scalar(10 * version)], {}, { outputs: ['logits'] }), 'float32', [batch, 1]);
  return writeModel(modelOf(b.finish()));
}

async function writeScorer(
  root: string,
  task: string,
  models: ReadonlyMap<number, Uint8Array>,
  batch: -1 | 1 = -1,
) {
  const variants = [...models].map(
    ([version, bytes]): Variant => ({
      version,
      digest: digestOf(bytes),
      sizeBytes: bytes.byteLength,
      accuracy: { test: 1 - version / 10, testCount: 100 },
      macs: 1000 - version,
      parameters: 5,
      lineage: {},
      profiles: {},
    }),
  );
  const inputs = [{ name: 'image', dtype: 'float32', shape: [batch, WIDTH] }] as const;
  const outputs = [{ name: 'logits', dtype: 'float32', shape: [batch, 1] }] as const;
  await writeTask(root, { schemaVersion: MANIFEST_SCHEMA_VERSION, task, inputs, outputs, variants }, models);
}

function ask(server: RunningServer, task: string, wishes: Wishes = {}, values = [1, 2, 3, 4]) {
  const image = { name: 'image', ...float32Tensor([values.length / WIDTH, WIDTH], values) };
  const inferRequest: InferRequest = { model: server.models.get(task), inputs: [image], ...wishes };
  return server.plane.submit(inferRequest).answer;
}

const select = (server: RunningServer, task: string, versions: number[], shares?: [number, number][]) =>
  server.models.load(task, {
    kind: 'specific',
    versions,
    ...(shares !== undefined && { shares: new Map(shares) }),
  });

describe('several versions of a task', () => {
  let root: string;
  let server: RunningServer;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-dispatch-'));
    await writeScorer(
      root,
      'digits',
      new Map([
        [1, scorer(1, { slowness: 60 })],
        [2, scorer(2, { slowness: 20 })],
        [3, scorer(3)],
      ]),
    );
    server = await start(root);
    await select(server, 'digits', [1, 2, 3]);
  });
  afterAll(async () => {
    await server.close();
    await rm(root, { recursive: true, force: true });
  });

  it('wait for no network that a store does not send, and the last that was asked for serves', async () => {
    const base = folderStore(root);
    let send: (letGo: () => void) => void = () => {};
    let released = 0;
    const sent = new Promise<() => void>((resolve) => {
      send = resolve;
    });
    const store: TaskStore = {
      ...base,
      readTask: async (task) => {
        const stored = await base.readTask(task);
        const versions = stored.versions.map((entry) =>
          entry.version === 1 ? { ...entry, hold: () => sent } : entry,
        );
        return { ...stored, versions };
      },
    };
    const slow = await start(root, { repository: store, initialVersions: 'smallest' });
    try {
      const hanging = select(slow, 'digits', [1]);
      hanging.catch(() => undefined);
      const state = () => slow.models.get('digits').statuses.get(1)?.state;
      await vi.waitFor(() => expect(state()).toBe('LOADING'));
      await select(slow, 'digits', [2]);
      expect(slow.models.get('digits').current!.version).toBe(2);
      send(() => {
        released++;
      });
      await expect(hanging).rejects.toThrow(/something else was asked for while its network was fetched/);
      expect([slow.models.get('digits').current!.version, released]).toEqual([2, 1]);
      await select(slow, 'digits', [1]);
      expect(slow.models.get('digits').current!.version).toBe(1);
    } finally {
      await slow.close();
    }
  });

  it('are told apart by what a request says', async () => {
    const versions = [];
    for (const wishes of [
      {},
      { version: 1 },
      { prefer: 'accuracy' },
      { prefer: 'latency' },
      { minAccuracy: 0.8 },
      { minAccuracy: 0.9 },
      { priority: 'batch' },
      { prefer: 'latency', minAccuracy: 0.75 },
      { version: 2, minAccuracy: 0.8, prefer: 'latency', weight: 2 },
    ] as const) {
      const answer = await ask(server, 'digits', wishes);
      expect(floatsOf(answer.outputs[0]!)[0]).toBeCloseTo(10 * answer.version + 10, 3);
      expect([answer.accuracy, answer.queueMs >= 0]).toEqual([1 - answer.version / 10, true]);
      versions.push(answer.version);
    }
    // A floor that the serving version misses is met by the most accurate one that is in time.
    expect(versions).toEqual([3, 1, 1, 3, 1, 1, 3, 2, 2]);
  });

  it('cannot fulfil everything, and say what they can', async () => {
    const refusal = (wishes: Wishes) => {
      try {
        void ask(server, 'digits', wishes);
        return 'nothing';
      } catch (thrown) {
        return thrown;
      }
    };
    expect(refusal({ minAccuracy: 0.95 })).toMatchObject({
      code: 'invalid_request',
      message: expect.stringMatching(/reaches min_accuracy 0.95; it has version 1 \(has accuracy 0.9\), /),
    });
    expect(refusal({ version: 3, minAccuracy: 0.8 })).toMatchObject({
      code: 'invalid_request',
      message: expect.stringMatching(/version 3 of 'digits' has accuracy 0.7, which is below/),
    });
    expect(refusal({ priority: 'batch', maxLatencyMs: 100 })).toMatchObject({ code: 'invalid_request' });
    await select(server, 'digits', [3]);
    expect(refusal({ minAccuracy: 0.8 })).toMatchObject({
      code: 'not_ready',
      message: expect.stringMatching(/in memory: version 3 .*; the repository also has version 1 /),
    });
    await select(server, 'digits', [1, 2, 3]);
  });

  it('keep a latency limit on an idle server too; one that none can keep is tried by the fastest, and named where it is shed', async () => {
    const seen: { readonly waitMs: number; readonly version: number | undefined }[] = [];
    const shedding: Dispatch = {
      name: 'shedding',
      pick: ({ queue }) => {
        const [{ deadlineMs, arrivalMs, version }] = queue as [(typeof queue)[0]];
        seen.push({ waitMs: deadlineMs - arrivalMs, version });
        return { kind: 'shed', index: 0, reason: 'deadline' };
      },
    };
    await select(server, 'digits', [1, 3]);
    const serviceOf = (version: number) =>
      server.models
        .get('digits')
        .liveVersions.find((live) => live.version === version)!
        .serviceMs(1);
    server.plane.useDispatch(shedding);
    // On a busy machine one may be too late even for the dispatch.
    const shed = async (wishes: Wishes, message: RegExp) => {
      const before = seen.length;
      while (seen.length === before) await expect(ask(server, 'digits', wishes)).rejects.toThrow(message);
    };
    try {
      // Twice the fastest version's time and a millisecond more would be beyond the limit.
      const allowedMs = 1.5 * serviceOf(3) + 1;
      await shed({ maxLatencyMs: allowedMs / 0.95 }, /^Request timeout expired$/);
      await shed(
        { maxLatencyMs: 1e-6, prefer: 'accuracy' },
        /expired: max_latency_ms is 0.000001, and the fastest version in memory .* takes some/,
      );
      expect(seen[0]!.waitMs).toBeCloseTo(allowedMs, 6);
      expect(seen[0]!.version).toBe(undefined);
      expect(seen[1]!.version).toBe(3);
    } finally {
      server.plane.useDispatch(undefined);
      await select(server, 'digits', [1, 2, 3]);
    }
  });

  it('answer by their shares, until told otherwise; requests that name a version do not count', async () => {
    await select(
      server,
      'digits',
      [2, 3],
      [
        [2, 0.9],
        [3, 0.1],
      ],
    );
    const counts = new Map<number, number>();
    for (let i = 0; i < 40; i++) {
      const { version } = await ask(server, 'digits');
      counts.set(version, (counts.get(version) ?? 0) + 1);
      await ask(server, 'digits', { version: 3 });
    }
    expect([counts.get(2), counts.get(3)]).toEqual([36, 4]);
    await select(server, 'digits', [2, 3]);
    expect((await ask(server, 'digits')).version).toBe(3);
    await select(server, 'digits', [1, 2, 3]);
  });

  it('take shares through the repository extension, and give them back', async () => {
    const load = (config: object) =>
      request(`${server.httpUrl}/v2/repository/models/digits/load`, {
        method: 'POST',
        body: JSON.stringify({ parameters: { config: JSON.stringify(config) } }),
      });
    const policy = { version_policy: { specific: { versions: [2, 3] } } };
    const shares = (value: string) => ({ parameters: { 'bonsai.shares': { string_value: value } } });
    expect((await load({ ...policy, ...shares('{"2":3,"3":1}') })).statusCode).toBe(200);
    const versions = [];
    for (let i = 0; i < 8; i++) versions.push((await ask(server, 'digits')).version);
    expect(versions.filter((version) => version === 2).length).toBe(6);
    const config = await (await request(`${server.httpUrl}/v2/models/digits/config`)).body.json();
    expect(config).toMatchObject({
      parameters: { 'bonsai.shares': { string_value: '{"2":0.75,"3":0.25}' } },
    });
    for (const wrong of ['{"1":1}', '{}', '{"2":-1}', '[]', 'x']) {
      const reply = await load({ ...policy, ...shares(wrong) });
      expect([wrong, reply.statusCode]).toEqual([wrong, 400]);
      await reply.body.dump();
    }
    const threads = { parameters: { intra_op_thread_count: { string_value: '2' } } };
    expect((await load({ ...policy, ...threads })).statusCode).toBe(200);
    expect(server.models.get('digits').current?.threads).toBe(2);
    await server.models.load('digits', { kind: 'specific', versions: [1, 2, 3] }, 1);
  });

  it('are chosen by the dispatch of a policy; where that fails, by the default one', async () => {
    const seen: unknown[] = [];
    const byPlan: Dispatch = {
      name: 'by plan',
      pick: ({ plan }) => {
        seen.push(plan);
        return { kind: 'run', index: 0, version: plan as number };
      },
    };
    server.plane.useDispatch(byPlan);
    server.plane.setPlan(1);
    expect((await ask(server, 'digits')).version).toBe(1);
    server.plane.setPlan(9); // Not there.
    expect((await ask(server, 'digits')).version).toBe(3);
    expect(seen).toEqual([1, 9]);
    for (const odd of [{ kind: 'later' }, { kind: 'run', batch: 0 }, { kind: 'run', batch: Number.NaN }]) {
      let asked = 0;
      server.plane.useDispatch({
        name: 'odd',
        pick: () => {
          // Taken for a decision, it would be asked for ever.
          if (++asked > 100) throw new Error('Asked too often.');
          return { index: 0, version: 1, ...odd } as unknown as DispatchDecision;
        },
      });
      expect((await ask(server, 'digits')).version).toBe(3);
      expect(asked).toBe(1);
    }
    server.plane.useDispatch({
      name: 'shedding',
      pick: () => ({ kind: 'shed', index: 0, reason: 'overload' }),
    });
    await expect(ask(server, 'digits')).rejects.toMatchObject({ code: 'deadline_exceeded' });
    let picks = 0;
    server.plane.useDispatch({
      name: 'waiting',
      pick: ({ nowMs }) =>
        picks++ < 2 ? { kind: 'wait', untilMs: nowMs + 1 } : { kind: 'run', index: 0, version: 2 },
    });
    expect((await ask(server, 'digits')).version).toBe(2);
    server.plane.useDispatch(undefined);
    expect((await ask(server, 'digits')).version).toBe(3);
  });
});

describe('the queue of the server', () => {
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-queue-'));
    await writeScorer(root, 'slow', new Map([[1, scorer(1, { slowness: 40 })]]));
    await writeScorer(root, 'mixing', new Map([[1, scorer(1, { mixes: true, slowness: 40 })]]));
    await writeScorer(root, 'single', new Map([[1, scorer(1, { batch: 1, slowness: 40 })]]), 1);
    await writeScorer(root, 'mixing-single', new Map([[1, scorer(1, { batch: 1, mixes: true })]]), 1);
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  it('joins requests that wait into one job, and gives each its own rows', async () => {
    const server = await start(root);
    // Whether joining pays is measured, so that here it is demanded.
    server.plane.useDispatch({
      name: 'joining',
      pick: () => ({ kind: 'run', index: 0, version: 1, batch: 8 }),
    });
    try {
      const rows = Array.from({ length: 24 }, (_, i) => [i, 0, 0, 0, ...(i % 3 === 0 ? [i, 1, 0, 0] : [])]);
      const answers = await Promise.all(rows.map((values) => ask(server, 'slow', {}, values)));
      answers.forEach(({ outputs: [logits] }, i) => {
        const values = [...floatsOf(logits!)].map((value) => Math.round(value * 100) / 100);
        expect(values).toEqual(i % 3 === 0 ? [10 + i, 11 + i] : [10 + i]);
      });
      const { statistics } = server.models.get('slow').current!;
      expect([statistics.success.count, statistics.inferenceCount]).toEqual([24, 32]);
      const executed = [...statistics.batches].reduce((sum, [size, { count }]) => sum + size * count, 0);
      expect(executed).toBe(32);
      // 16 single and 8 double requests: on their own no job would have more than 2 rows.
      expect(Math.max(...statistics.batches.keys())).toBeGreaterThan(2);
      expect(statistics.executionCount).toBeLessThan(24);
    } finally {
      await server.close();
    }
  });

  it('never joins requests of a network whose rows depend on each other', async () => {
    const server = await start(root);
    server.plane.useDispatch({
      name: 'joining',
      pick: () => ({ kind: 'run', index: 0, version: 1, batch: 8 }),
    });
    try {
      const answers = await Promise.all(
        Array.from({ length: 12 }, (_, i) => ask(server, 'mixing', {}, [i, 0, 0, 0])),
      );
      for (const { outputs } of answers) expect(floatsOf(outputs[0]!)[0]).toBeCloseTo(10, 3);
      const { statistics } = server.models.get('mixing').current!;
      expect([statistics.executionCount, [...statistics.batches.keys()]]).toEqual([12, [1]]);
    } finally {
      await server.close();
    }
  });

  it.each([
    { isPrivileged: true, inlineBelowMs: 0 },
    { isPrivileged: true, inlineBelowMs: 1000 },
    { isPrivileged: false, inlineBelowMs: 0 },
    { isPrivileged: false, inlineBelowMs: 1000 },
  ])(
    'joins requests of a network whose file says a batch of 1, which clients still see: %o',
    async (options) => {
      const server = await start(root, options);
      server.plane.useDispatch({
        name: 'joining',
        pick: () => ({ kind: 'run', index: 0, version: 1, batch: 8 }),
      });
      try {
        const live = server.models.get('single').current!;
        expect([live.inputs[0]!.shape, live.outputs[0]!.shape]).toEqual([
          [1, WIDTH],
          [1, 1],
        ]);
        const answers = await Promise.all(
          Array.from({ length: 12 }, (_, i) => ask(server, 'single', {}, [i, 0, 0, 0])),
        );
        answers.forEach(({ outputs: [logits] }, i) => {
          expect([logits!.shape, floatsOf(logits!)[0]]).toEqual([[1, 1], expect.closeTo(10 + i, 2)]);
        });
        expect(live.statistics.executionCount).toBeLessThan(12);
        expect(() => ask(server, 'single', {}, [1, 0, 0, 0, 2, 0, 0, 0])).toThrow(/shape/);
      } finally {
        await server.close();
      }
    },
  );

  it('leaves a batch of 1 alone where rows would depend on each other', async () => {
    const server = await start(root);
    try {
      expect(server.models.get('mixing-single').current!.maxJointRows).toBe(1);
      const { outputs } = await ask(server, 'mixing-single', {}, [5, 0, 0, 0]);
      expect(floatsOf(outputs[0]!)[0]).toBeCloseTo(10, 3);
    } finally {
      await server.close();
    }
  });

  it('serves realtime requests before those of the batch class, and gives up the less important when full', async () => {
    const server = await start(root, { limits: { maxQueueLength: 4 }, inlineBelowMs: 0 });
    try {
      const order: string[] = [];
      const note = (name: string, answer: Promise<unknown>) =>
        answer.then(
          () => order.push(name),
          () => order.push(`${name} refused`),
        );
      const all = [
        note('first', ask(server, 'mixing')),
        note('second', ask(server, 'mixing')),
        note('batch', ask(server, 'mixing', { priority: 'batch' })),
        note('low', ask(server, 'mixing', { weight: 0.1 })),
        note('third', ask(server, 'mixing')),
        note('fourth', ask(server, 'mixing')),
        note('fifth', ask(server, 'mixing')),
      ];
      expect(() => ask(server, 'mixing')).toThrow(expect.objectContaining({ code: 'queue_full' }));
      await Promise.all(all);
      expect(order).toEqual(['low refused', 'first', 'second', 'third', 'fourth', 'fifth', 'batch']);
    } finally {
      await server.close();
    }
  });

  it('refuses under overload before it decodes, unless what a request asks for may change that', async () => {
    const server = await start(root, { limits: { maxQueueLength: 1, maxQueueWaitMs: 60_000 } });
    const send = (body: string) => call(server, 'POST', '/v2/models/slow/infer', body);
    const nothing = { modelName: 'slow', modelVersion: '', id: '', outputs: [], rawContents: [] };
    const decode = () =>
      decodeInfer(server.models, server.plane, { ...nothing, parameters: new Map(), inputs: [] }, undefined);
    try {
      expect((await send('no JSON')).status).toBe(400);
      expect(() => server.plane.submit(decode().request)).toThrow(/is missing/);
      server.plane.useDispatch({ name: 'never', pick: () => ({ kind: 'wait' }) });
      const waiting = ask(server, 'slow');
      const refused = await send('no JSON');
      expect([refused.status, refused.json.error]).toEqual([503, 'Exceeds maximum queue size']);
      expect((await send('{"parameters":{"priority":1}, no JSON')).status).toBe(400);
      expect((await send('{"parameters":{"p\\u0072iority":1}, no JSON')).status).toBe(400);
      expect(decode).toThrow(expect.objectContaining({ code: 'queue_full' }));
      const { arrivals, refusals } = server.models.get('slow');
      expect([arrivals.refused, refusals.get('queue_full')]).toEqual([2, 2]);
      server.plane.useDispatch(undefined);
      await waiting;
    } finally {
      await server.close();
    }
  });

  it('warms its paths through both protocols without a trace in what it counts', async () => {
    const log: string[] = [];
    const logger = pino({ level: 'debug' }, { write: (line: string) => void log.push(line) });
    const submit = vi.spyOn(DataPlane.prototype, 'submit');
    const server = await start(root, { warmsPath: true, grpcPort: 0, logger });
    try {
      // One through each protocol at least; both are charged, by their own ways.
      expect(new Set(submit.mock.calls.map(([{ isCharged = false }]) => isCharged))).toEqual(
        new Set([true, false]),
      );
      submit.mockRestore();
      expect(log.filter((line) => line.includes('warming up failed'))).toEqual([]);
      for (const { arrivals, liveVersions } of server.models.models.values()) {
        expect(arrivals).toEqual({ accepted: 0, refused: 0, invalid: 0 });
        for (const { statistics, resident } of liveVersions) {
          expect([statistics.success.count, statistics.executionCount, resident.dispatched]).toEqual([
            0, 0, 0,
          ]);
        }
      }
    } finally {
      await server.close();
    }
  });

  it('runs short networks in the thread with the sockets, alone and joined, and replaces them when they are lost', async () => {
    const server = await start(root, { inlineBelowMs: 1000 });
    try {
      const live = () => server.models.get('slow').current!;
      expect(live().lane(0)).toBeInstanceOf(InlineLane);
      const answers = await Promise.all(
        [1, 2, 3, 4].map((first) => ask(server, 'slow', {}, [first, 0, 0, 0])),
      );
      const expected = floatsOf(answers[0]!.outputs[0]!)[0]! - 1;
      expect(answers.map(({ outputs }) => floatsOf(outputs[0]!)[0])).toEqual(
        [1, 2, 3, 4].map((first) => expect.closeTo(expected + first, 3)),
      );
      const two = await ask(server, 'slow', {}, [1, 0, 0, 0, 5, 0, 0, 0]);
      expect([...floatsOf(two.outputs[0]!)]).toEqual([
        expect.closeTo(expected + 1, 3),
        expect.closeTo(expected + 5, 3),
      ]);
      const lost = live().lane(0);
      await live().crashLane(0);
      const again = await ask(server, 'slow', {}, [7, 0, 0, 0]);
      expect(floatsOf(again.outputs[0]!)[0]).toBeCloseTo(expected + 7, 3);
      expect(live().lane(0)).not.toBe(lost);
    } finally {
      await server.close();
    }
    const inThreads = await start(root, { inlineBelowMs: 1e-6 });
    expect(inThreads.models.get('slow').current!.lane(0)).toBeInstanceOf(WorkerHandle);
    await inThreads.close();
    const withTwoSlots = await start(root, { slots: 2 });
    expect(withTwoSlots.models.get('slow').current!.lane(0)).toBeInstanceOf(WorkerHandle);
    await withTwoSlots.close();
  });

  it('listens to its sockets between inferences in their thread, however many wait', async () => {
    const server = await start(root, { inlineBelowMs: 1000, limits: { maxQueueWaitMs: 60_000 } });
    try {
      let answered = 0;
      const answers = Array.from({ length: 400 }, () =>
        ask(server, 'slow').then(() => {
          answered++;
        }),
      );
      expect((await call(server, 'GET', '/v2/health/live')).status).toBe(200);
      expect(answered).toBeLessThan(400);
      await Promise.all(answers);
    } finally {
      await server.close();
    }
  });

  it('computes a request of many examples in parts, between which sockets have their turn', async () => {
    const server = await start(root, { inlineBelowMs: 1000, limits: { maxLatencyMs: 60_000 } });
    try {
      const rows = 3000;
      const values = Array.from({ length: rows * WIDTH }, (_, i) => (i % WIDTH === 0 ? i / WIDTH : 0));
      let turns = 0;
      let isDone = false;
      const answer = ask(server, 'slow', {}, values).finally(() => {
        isDone = true;
      });
      while (!isDone) {
        turns++;
        await setImmediate();
      }
      const logits = floatsOf((await answer).outputs[0]!);
      expect(logits.length).toBe(rows);
      const alone = floatsOf((await ask(server, 'slow', {}, [2999, 0, 0, 0])).outputs[0]!)[0]!;
      expect(logits[2999]).toBeCloseTo(alone, 2);
      expect(logits[2999]! - logits[0]!).toBeCloseTo(2999, 1);
      expect(turns).toBeGreaterThan(5);
    } finally {
      await server.close();
    }
  });

  it('tries nothing that is expected to hold it up for long, however idle it is', async () => {
    const server = await start(root, { inlineBelowMs: 1000, limits: { maxLatencyMs: 50 } });
    try {
      const live = server.models.get('slow').current!;
      let rows = 1;
      while (live.serviceMs(rows) <= MAX_TRIAL_MS) rows *= 2;
      expect(() => ask(server, 'slow', {}, Array(rows * WIDTH).fill(0))).toThrow(
        /the answer is due in \d+ ms, and the fastest version .* takes some \d+ ms/,
      );
      await ask(server, 'slow');
    } finally {
      await server.close();
    }
  });

  it('refuses what comes beyond its queue, though jobs in its thread are done at once', async () => {
    const server = await start(root, { slots: 1, inlineBelowMs: 1000, limits: { maxQueueLength: 4 } });
    try {
      const outcomes = Array.from({ length: 50 }, () => {
        try {
          return ask(server, 'slow');
        } catch (thrown) {
          return (thrown as BonsaiError).code;
        }
      });
      // One job was started to make room, and four requests wait.
      const most = 4 + MAX_MERGED_ROWS;
      expect(outcomes.filter((outcome) => outcome === 'queue_full').length).toBeGreaterThanOrEqual(50 - most);
      await Promise.all(outcomes);
    } finally {
      await server.close();
    }
  });

  it('bounds the bytes of all requests, and counts those that are done no more', async () => {
    const server = await start(root, { limits: { maxInFlightBytes: 2 * 4 * WIDTH } });
    try {
      const two = [ask(server, 'slow'), ask(server, 'slow')];
      expect(server.plane.bytes.used).toBe(32);
      expect(() => ask(server, 'slow')).toThrow(/requests of 32 bytes are in the server already/);
      await Promise.all(two);
      expect(server.plane.bytes.used).toBe(0);
    } finally {
      await server.close();
    }
  });
});

describe('a version that was given up', () => {
  it('is tried again, and answers again', async () => {
    const root = await mkdtemp(join(tmpdir(), 'bonsai-revival-'));
    await writeScorer(root, 'digits', new Map([[1, scorer(1)]]));
    const server = await start(root);
    try {
      const model = server.models.get('digits');
      for (let i = 0; i < 3; i++) {
        const live = model.current!;
        await live.crashLane(0);
        if (i < 2) await expect.poll(() => live.lane(0), { timeout: 20_000 }).toBeDefined();
      }
      await expect.poll(() => model.isReady, { timeout: 20_000 }).toBe(false);
      expect(model.isReviving).toBe(true);
      expect([...model.statuses]).toEqual([
        [1, { state: 'UNAVAILABLE', reason: expect.stringMatching(/lost 3 times in a row; .*again in 1 s/) }],
      ]);
      await expect.poll(() => model.isReady, { timeout: 20_000 }).toBe(true);
      expect((await ask(server, 'digits')).version).toBe(1);
      expect(model.isReviving).toBe(false);
    } finally {
      await server.close();
      await rm(root, { recursive: true, force: true });
    }
  }, 60_000);

  it('has its threads replaced on demand while it answers', async () => {
    const root = await mkdtemp(join(tmpdir(), 'bonsai-recycle-'));
    await mkdir(join(root, 'foreign', '1'), { recursive: true });
    await writeFile(join(root, 'foreign', '1', 'model.onnx'), scorer(1));
    const server = await start(root);
    try {
      const live = server.models.get('foreign').current!;
      const before = live.lane(0);
      let isDone = false;
      const recycled = live.recycle().then(() => {
        isDone = true;
      });
      while (!isDone) await ask(server, 'foreign');
      await recycled;
      expect(live.lane(0)).not.toBe(before);
      expect((await ask(server, 'foreign')).version).toBe(1);
    } finally {
      await server.close();
      await rm(root, { recursive: true, force: true });
    }
  });
});

describe('what a request is expected to take', () => {
  let root: string;
  let server: RunningServer;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-times-'));
    await writeScorer(root, 'digits', new Map([[1, scorer(1)]]));
  });
  beforeEach(async () => {
    server = await start(root);
  });
  afterEach(async () => {
    await server.close();
  });
  afterAll(async () => {
    await rm(root, { recursive: true, force: true });
  });

  it('is hardly moved by one inference that was held up, but follows those that are slower for good', () => {
    const live = server.models.get('digits').current!;
    live.observe(1, 2);
    const beforeMs = live.serviceMs();
    live.observe(1, 1000 * beforeMs);
    // A tenth of three times as much.
    expect(live.serviceMs()).toBeCloseTo(1.2 * beforeMs, 9);
    for (let i = 0; i < 200; i++) live.observe(1, 50 * beforeMs);
    expect(live.serviceMs()).toBeCloseTo(50 * beforeMs, 3);
  });

  it('of a version that nothing uses nears what the others show', () => {
    const live = server.models.get('digits').current!;
    const warmMs = live.serviceMs();
    for (let i = 0; i < 100; i++) live.observe(1, 10 * warmMs);
    const slowMs = live.serviceMs();
    live.relax(2); // It was used since the last time.
    expect(live.serviceMs()).toBe(slowMs);
    for (let i = 0; i < 200; i++) live.relax(2);
    expect(live.serviceMs()).toBeCloseTo(2 * warmMs, 6);
  });

  it('counts what it costs beside the inference once, however many examples it brings, and half of it for each that is joined', () => {
    const live = server.models.get('digits').current!;
    live.observe(1, 5);
    const [aloneMs, fourMs] = [live.serviceMs(), live.serviceMs(4)];
    const joinedMs = batchServiceMs(live.resident, 4);
    live.setOverhead(2);
    expect(live.serviceMs() - aloneMs).toBeCloseTo(2, 9);
    expect(live.serviceMs(4) - fourMs).toBeCloseTo(2, 9);
    expect(live.resident.serviceMs).toBeCloseTo(live.serviceMs(), 9);
    const half = OVERHEAD_SHARED_RATIO * 2;
    expect(batchServiceMs(live.resident, 4) - joinedMs).toBeCloseTo(half + 4 * (2 - half), 9);
    // What is spared beside the inference is worth it, whatever joint inferences are.
    live.setOverhead(100);
    expect(live.resident.maxBatch).toBe(live.maxJointRows);
    expect(live.maxJointRows).toBeGreaterThan(1);
  });

  it('is learned from requests that wait for each other, and told in the metrics', async () => {
    expect(server.plane.overheadMs).toBe(0);
    await Promise.all(Array.from({ length: 100 }, () => ask(server, 'digits')));
    expect(server.plane.overheadMs).toBeGreaterThan(0);
    expect(server.plane.overheadMs).toBeLessThanOrEqual(MAX_OVERHEAD_MS);
    const text = await (await request(server.metricsUrl)).body.text();
    expect(Number(/^bonsai_request_overhead_seconds (\S+)$/m.exec(text)?.[1])).toBeGreaterThan(0);
  });
});
