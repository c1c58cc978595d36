import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { freePorts } from './free-ports.fixture.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const deploy = join(root, 'deploy/prometheus');
const has = (program: string) => spawnSync(program, ['--version']).error === undefined;
const hasPrometheus = has('prometheus') && has('promtool');
const why = hasPrometheus
  ? ''
  : ' (left out: there is no Prometheus here; Debian: apt-get install prometheus)';

describe.skipIf(!hasPrometheus)(`the rules for Prometheus${why}`, () => {
  const promtool = (...args: string[]) => spawnSync('promtool', args, { cwd: deploy, encoding: 'utf8' });

  test('are accepted with their configuration', () => {
    const { status, stdout, stderr } = promtool('check', 'config', 'prometheus.yml');
    expect(stdout + stderr).toMatch(/24 rules found/);
    expect(status, stderr).toBe(0);
  });

  test('record and fire as their own tests say, and each alert has one', () => {
    const { status, stdout, stderr } = promtool('test', 'rules', 'bonsai.rules.test.yml');
    expect(status, stdout + stderr).toBe(0);
    const alerts = [...readFileSync(join(deploy, 'bonsai.rules.yml'), 'utf8').matchAll(/- alert: (\w+)/g)];
    const tests = readFileSync(join(deploy, 'bonsai.rules.test.yml'), 'utf8');
    expect(alerts.map(([, name]) => name).filter((name) => !tests.includes(`alertname: ${name}`))).toEqual(
      [],
    );
  });
});

interface Panel {
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

/** Requests per second, and beside them so many at once each second that cannot be answered in time. */
const REQUESTS_PER_SECOND = 20;
const BURST = 16;

describe.skipIf(!hasPrometheus)(`Prometheus over servers and a fleet${why}`, () => {
  let folder: string;
  let base: string;
  let httpUrl: string;
  let isOver = false;
  let load: Promise<void>;
  const children: ChildProcess[] = [];

  function run(program: string, args: readonly string[]): ChildProcess {
    const child = spawn(program, args, { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    return child;
  }

  async function serve(...args: string[]): Promise<{ http: string; metrics: string }> {
    const child = run(process.execPath, [
      ...[
        main,
        'serve',
        join(root, 'zoo/models'),
        '--port',
        '0',
        '--metrics-port',
        '0',
        '--grpc-port',
        'off',
      ],
      ...['--control-port', 'off', '--slots', '1', '--log-level', 'error', '--json', ...args],
    ]);
    const [line] = await once(createInterface(child.stdout!), 'line');
    return JSON.parse(line);
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-prometheus-'));
    const [alone, member] = await Promise.all([
      serve('--initial', 'smallest', '--policy', 'trivial', '--slo', '400ms'),
      serve('--model-control-mode', 'explicit'),
    ]);
    httpUrl = alone.http;
    const [orchestratorPort, port] = await freePorts(2);
    await writeFile(
      join(folder, 'fleet.yaml'),
      [
        `repository: ${join(root, 'zoo/models')}`,
        'servers:',
        `  - url: ${member.http}`,
        `    metrics: ${member.metrics}`,
        'tasks:',
        '  - name: mnist',
      ].join('\n'),
    );
    run(process.execPath, [main, 'orchestrate', 'fleet.yaml', '--metrics-port', String(orchestratorPort)]);
    await cp(join(deploy, 'bonsai.rules.yml'), join(folder, 'bonsai.rules.yml'));
    const config = readFileSync(join(deploy, 'prometheus.yml'), 'utf8')
      .replaceAll('_interval: 5s', '_interval: 1s')
      .replace('127.0.0.1:8002', new URL(alone.metrics).host)
      .replace('127.0.0.1:8003', `127.0.0.1:${orchestratorPort}`);
    await writeFile(join(folder, 'prometheus.yml'), config);
    base = `http://127.0.0.1:${port}`;
    const prometheus = spawn(
      'prometheus',
      [
        ...['--config.file=prometheus.yml', '--storage.tsdb.path=data', '--log.level=error'],
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] },
    );
    children.push(prometheus);
    load = keepAsking();
  });
  afterAll(async () => {
    isOver = true;
    await load;
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(children.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')));
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  });

  async function keepAsking(): Promise<void> {
    const inputs = [{ name: 'image', datatype: 'FP32', shape: [1, 1, 28, 28], data: new Array(784).fill(0) }];
    const ask = (parameters: object) =>
      request(`${httpUrl}/v2/models/mnist/infer`, {
        method: 'POST',
        body: JSON.stringify({ inputs, parameters }),
      }).then(
        ({ body }) => body.dump(),
        () => undefined,
      );
    for (let i = 0; !isOver; i++) {
      // Of requests that come together and cannot wait, the first may be answered and the rest is refused.
      if (i % REQUESTS_PER_SECOND === 0)
        await Promise.all(Array.from({ length: BURST }, () => ask({ max_latency_ms: 1e-6 })));
      await ask({});
      await new Promise((resolve) => setTimeout(resolve, 1000 / REQUESTS_PER_SECOND));
    }
  }

  interface Sample {
    readonly metric: Record<string, string>;
    readonly value: readonly [number, string];
  }

  async function query(expression: string): Promise<Sample[]> {
    const { body } = await request(`${base}/api/v1/query?query=${encodeURIComponent(expression)}`);
    const answer = (await body.json()) as { status: string; error?: string; data?: { result: Sample[] } };
    if (answer.status !== 'success') throw new Error(`${expression}: ${answer.error}`);
    return answer.data!.result;
  }

  const hasNumbers = (samples: readonly Sample[]) =>
    samples.some(({ value }) => Number.isFinite(Number(value[1])));

  test('finds both up', async () => {
    await vi.waitFor(
      async () => {
        const up = await query('up == 1');
        expect(up.map(({ metric }) => metric.job).sort()).toEqual(['bonsai', 'bonsai-orchestrator']);
      },
      { timeout: 60_000, interval: 500 },
    );
  });

  test('records every rule from what they tell', async () => {
    const rules = readFileSync(join(deploy, 'bonsai.rules.yml'), 'utf8');
    const records = [...rules.matchAll(/- record: (\S+)/g)].map((match) => match[1]!);
    expect(records.length).toBeGreaterThan(5);
    for (const record of records)
      await vi.waitFor(async () => expect(hasNumbers(await query(record)), record).toBe(true), {
        timeout: 60_000,
        interval: 500,
      });
    // Those that come at once are refused or late; more may be while the machine is busy. A rate needs two looks at a counter.
    await vi.waitFor(
      async () => {
        const [violations] = await query('bonsai:violation_ratio{model="mnist"}');
        expect(Number(violations!.value[1])).toBeGreaterThan(0.01);
      },
      { timeout: 60_000, interval: 500 },
    );
    const { body } = await request(`${base}/api/v1/rules`);
    const { data } = (await body.json()) as {
      data: { groups: { rules: { name: string; health: string }[] }[] };
    };
    const sick = data.groups.flatMap((group) => group.rules).filter(({ health }) => health !== 'ok');
    expect(sick).toEqual([]);
  });

  test('has data for every panel of the dashboard', async () => {
    const { panels } = JSON.parse(readFileSync(join(root, 'deploy/grafana/bonsai.json'), 'utf8')) as {
      panels: Panel[];
    };
    const expressions = panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr }) => [
        title,
        expr.replaceAll('$instance', '.*').replaceAll('$model', '.*').replaceAll('$__rate_interval', '1m'),
      ]),
    );
    expect(expressions.length).toBeGreaterThan(20);
    for (const [title, expression] of expressions)
      await vi.waitFor(
        async () => expect(hasNumbers(await query(expression!)), `${title}: ${expression}`).toBe(true),
        { timeout: 60_000, interval: 500 },
      );
  });

  test('fires for a server of the fleet that dies', async () => {
    const member = children[1]!;
    member.kill('SIGKILL');
    await vi.waitFor(
      async () => {
        const [alert] = await query('ALERTS{alertname="BonsaiFleetServerDown"}');
        expect(alert?.metric.alertstate).toMatch(/pending|firing/);
      },
      { timeout: 90_000, interval: 1000 },
    );
  });
});

test.skipIf(!hasPrometheus)('promtool lints what a server tells', async () => {
  const child = spawn(process.execPath, [
    ...[main, 'serve', join(root, 'zoo/models'), '--port', '0', '--metrics-port', '0', '--json'],
    ...['--grpc-port', 'off', '--control-port', 'off', '--log-level', 'error', '--initial', 'smallest'],
  ]);
  try {
    const [line] = await once(createInterface(child.stdout), 'line');
    const text = await (await request(JSON.parse(line).metrics)).body.text();
    const { stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
    // Triton's names and units are Triton's.
    const complaints = stderr
      .split('\n')
      .filter((complaint) => complaint !== '' && !complaint.startsWith('nv_'));
    expect(complaints).toEqual([]);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});
