import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../src/base/clock.ts';
import { v2Server } from '../src/orchestrate/adapters/v2-server.ts';
import { writeConstantFamily } from './constant-family.fixture.ts';

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

/** [accuracy, throughput] of versions 1, 2, … */
const FAMILY = [
  [0.9, 10],
  [0.8, 20],
  [0.7, 40],
  [0.5, 80],
] as const;

let root: string;
let child: ChildProcess | undefined;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-serve-policy-'));
  await writeConstantFamily(root, 'digits', FAMILY);
});
afterEach(async () => {
  if (child !== undefined && child.exitCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await rm(root, { recursive: true, force: true });
});

/** Starts `bonsai serve` in a process of its own. @returns its addresses */
async function serve(...args: string[]): Promise<{ http: string; metrics: string }> {
  const ports = ['--port', '0', '--grpc-port', 'off', '--metrics-port', '0'];
  child = spawn(
    process.execPath,
    [main, 'serve', root, '--json', '--log-level', 'error', ...ports, ...args],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const [line] = await once(createInterface(child.stdout!), 'line');
  return JSON.parse(line);
}

/** The versions in memory, by the metrics. */
async function resident(metrics: string): Promise<number[]> {
  const page = await (await fetch(metrics)).text();
  return [...page.matchAll(/^bonsai_planned_service_seconds\{model="digits",version="(\d+)"\}/gm)]
    .map(([, version]) => Number(version))
    .sort((a, b) => a - b);
}

async function ask(http: string): Promise<{ version: string; logits: number[] }> {
  const inputs = [{ name: 'image', datatype: 'FP32', shape: [1, 1], data: [0.5] }];
  const response = await fetch(`${http}/v2/models/digits/infer`, {
    method: 'POST',
    body: JSON.stringify({ inputs }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: bodies of answers are examined freely in tests.
  const body = (await response.json()) as any;
  expect(body, JSON.stringify(body)).toHaveProperty('outputs');
  return { version: body.model_version, logits: body.outputs[0].data };
}

test('the policy bonsai loads what it wants to have in memory, and chooses among it', async () => {
  const { http, metrics } = await serve(
    '--policy',
    'bonsai',
    '--residency',
    '2',
    '--initial',
    'smallest',
    '--slo',
    '400ms',
  );
  expect(await ask(http)).toEqual({ version: '4', logits: [4] });
  // Hardly any demand: beside the smallest, which stays, the most accurate is worth most.
  await vi.waitFor(async () => expect(await resident(metrics)).toEqual([1, 4]), {
    timeout: 50_000,
    interval: 200,
  });
  await vi.waitFor(async () => expect(await ask(http)).toEqual({ version: '1', logits: [1] }), {
    timeout: 20_000,
    interval: 200,
  });
  // Who looks from outside, as a fleet does, sees that somebody decides here already.
  const adapter = v2Server({ url: http, metricsUrl: new URL(metrics).origin, clock: systemClock });
  try {
    expect(await adapter.observe(AbortSignal.timeout(10_000))).toMatchObject({ ownPolicy: 'bonsai' });
  } finally {
    await adapter.close();
  }
  expect(await (await fetch(metrics)).text()).toMatch(/^bonsai_notice_active\{server=".*"\} [01]$/m);
  child!.kill('SIGTERM');
  const [code] = await once(child!, 'exit');
  expect(code).toBe(0);
}, 120_000);

test('a policy that names one version per task has only that one in memory', async () => {
  const { http, metrics } = await serve('--policy', 'static:digits=2', '--initial', 'smallest');
  await vi.waitFor(async () => expect(await resident(metrics)).toEqual([2]), {
    timeout: 50_000,
    interval: 200,
  });
  expect(await ask(http)).toEqual({ version: '2', logits: [2] });
}, 120_000);

test('a policy leaves alone what nobody has loaded, and what clients unload', async () => {
  await writeConstantFamily(root, 'letters', FAMILY);
  const { http, metrics } = await serve('--policy', 'static:largest', '--model-control-mode', 'explicit');
  const states = async () => {
    const answer = await fetch(`${http}/v2/repository/index`, { method: 'POST', body: '{"ready": true}' });
    return ((await answer.json()) as { name: string; version: string }[]).map(
      ({ name, version }) => `${name} ${version}`,
    );
  };
  const change = async (what: 'load' | 'unload', version?: number) => {
    const config = JSON.stringify({ version_policy: { specific: { versions: [version] } } });
    const body = version === undefined ? '{}' : JSON.stringify({ parameters: { config } });
    const url = `${http}/v2/repository/models/digits/${what}`;
    expect((await fetch(url, { method: 'POST', body })).status).toBe(200);
  };
  await change('load', 4);
  await vi.waitFor(async () => expect(await states()).toEqual(['digits 1']), {
    timeout: 20_000,
    interval: 200,
  });
  await change('unload');
  // Several periods of the policy.
  await new Promise((done) => setTimeout(done, 3500));
  expect(await states()).toEqual([]);
  expect(await resident(metrics)).toEqual([]);
  await change('load', 3);
  await vi.waitFor(async () => expect(await states()).toEqual(['digits 1']), {
    timeout: 20_000,
    interval: 200,
  });
}, 120_000);
