import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import pino from 'pino';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { float32Tensor, floatsOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { digestOf } from '../repository/digest.ts';
import { writeTask } from '../repository/store.ts';
import { folderStore } from '../repository/task-store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../repository/types.ts';
import { CpuGovernor } from './cpu-governor.ts';
import { DataPlane, type InferRequest } from './data-plane.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import { Loader } from './loader.ts';
import { start } from './server.fixture.ts';

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-quota-'));
  const b = new GraphBuilder('doubler');
  const x = b.input('x', 'float32', ['N', 1]);
  b.output(b.op('Add', [x, x], {}, { outputs: ['y'] }), 'float32', ['N', 1]);
  const bytes = writeModel(modelOf(b.finish()));
  const tensor = { dtype: 'float32', shape: [-1, 1] } as const;
  const variant = {
    version: 1,
    digest: digestOf(bytes),
    sizeBytes: bytes.byteLength,
    macs: 1,
    parameters: 0,
  };
  await writeTask(
    root,
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task: 'double',
      inputs: [{ name: 'x', ...tensor }],
      outputs: [{ name: 'y', ...tensor }],
      variants: [{ ...variant, accuracy: { test: 0.9, testCount: 10 }, lineage: {}, profiles: {} }],
    },
    new Map([[1, bytes]]),
  );
});
afterAll(() => rm(root, { recursive: true, force: true }));

/** Lets the sockets' thread do what it has to. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await setImmediate();
}

describe.each([
  ['in the thread with the sockets', 5],
  ['in a thread of its own', 0],
])('under a CPU quota, %s,', (_where, inlineBelowMs) => {
  it('a slot rests, and the dispatch knows: service times, early refusal and the start of what waits', async () => {
    const server = await start(root, { slots: 1, inlineBelowMs });
    const model = server.models.get('double');
    let nowMs = 10_000;
    let cpuMs = 0;
    const clock = { nowMs: () => nowMs, epochMs: () => nowMs };
    const meter = { processCpuMs: () => cpuMs, loadCpuMs: () => 0 };
    const governor = new CpuGovernor({ quotaCores: 0.5, slots: 1, clock, meter });
    const plane = new DataPlane({ slots: 1, limits: DEFAULT_LIMITS, clock, governor });
    const ask = (value: number, maxLatencyMs?: number) => {
      const inputs: InferRequest['inputs'] = [{ name: 'x', ...float32Tensor([1, 1], [value]) }];
      return plane.submit({ model, inputs, ...(maxLatencyMs !== undefined && { maxLatencyMs }) }).answer;
    };
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const pass = async (ms: number) => {
      nowMs += ms;
      vi.advanceTimersByTime(ms);
      await turns();
    };
    try {
      const computeMs = model.current!.serviceMs();
      cpuMs += 100; // 20 ms are at hand, so 80 are owed: 160 ms at half a CPU.
      const first = ask(1);
      expect(model.current!.serviceMs()).toBeCloseTo(2 * computeMs, 9);
      await turns();
      expect(plane.queued()).toBe(1);
      expect(() => ask(2, 100)).toThrow(/the expected wait of 160\.\d ms is longer than/);
      const second = ask(2, 400);
      await pass(159);
      expect(plane.queued()).toBe(2);
      await pass(1);
      expect(plane.queued()).toBeLessThan(2);
      const answers = await Promise.all([first, second]);
      expect(answers.map(({ outputs }) => floatsOf(outputs[0]!)[0])).toEqual([2, 4]);
      // Nothing is owed now.
      expect(floatsOf((await ask(3, 50)).outputs[0]!)[0]).toBe(6);
    } finally {
      vi.useRealTimers();
      await plane.drain(0);
      await server.close();
    }
  });
});

// Other systems do not tell the CPU time of a thread.
it.runIf(process.platform === 'linux')(
  'tells the CPU time of loads apart from that of inferences',
  async () => {
    const loader = new Loader({ spareCount: 0, logger: pino({ level: 'silent' }), clock: systemClock });
    try {
      const { versions } = await folderStore(root).readTask('double');
      const first = await loader.load(versions[0]!);
      const oneLoadMs = loader.cpuMs;
      expect(oneLoadMs).toBeGreaterThan(0);
      for (let i = 0; i < 100; i++) await first.lane.run([[float32Tensor([1, 1], [i])]]);
      expect(loader.cpuMs).toBe(oneLoadMs);
      const second = await loader.load(versions[0]!);
      expect(loader.cpuMs).toBeGreaterThan(oneLoadMs);
      await Promise.all([first.lane.close(), second.lane.close()]);
    } finally {
      await loader.close();
    }
  },
);

it('tells what requests take in the long run where the system gives it a part of a CPU, however quick single ones are', async () => {
  const whole = await start(root, { slots: 1, inlineBelowMs: 1_000 });
  const part = await start(root, { slots: 1, inlineBelowMs: 1_000, cpuBudgetCores: 0.1 });
  try {
    const inputs: InferRequest['inputs'] = [{ name: 'x', ...float32Tensor([1, 1], [1]) }];
    const [quickMs, longMs] = await Promise.all(
      [whole, part].map(async ({ models, plane }) => {
        const model = models.get('double');
        for (let i = 0; i < 200; i++) await plane.submit({ model, inputs }).answer;
        return model.current!.serviceMs();
      }),
    );
    // Ten times as much, but for what both cost beside inferences.
    expect(longMs).toBeGreaterThan(4 * quickMs!);
  } finally {
    await whole.close();
    await part.close();
  }
});

it('of one and a half CPUs makes two slots, which metrics tell with the budget', async () => {
  const server = await start(root, { cpuQuotaCores: 1.5 });
  try {
    const text = await (await request(server.metricsUrl)).body.text();
    expect(text).toMatch(/^bonsai_slots 2$/m);
    expect(text).toMatch(/^bonsai_cpu_budget_cores 1\.5$/m);
  } finally {
    await server.close();
  }
  await expect(start(root, { cpuQuotaCores: 0 })).rejects.toThrow(/above 0/);
});
