import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pino from 'pino';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { code, GENERATED_NOTE, table } from '../docs/generate/markdown.ts';
import { systemClock } from '../src/base/clock.ts';
import { administrators } from '../src/orchestrate/administrators.ts';
import { fleetMetrics } from '../src/orchestrate/fleet/fleet-metrics.ts';
import { FLEET_RECORD_SCHEMA_VERSION, type FleetRecord } from '../src/orchestrate/fleet/record.ts';
import { call, start } from '../src/serve/server.fixture.ts';
import { writeConstantFamily } from './constant-family.fixture.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const document = join(root, 'docs/observability.md');

interface Described {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly labels: Set<string>;
}

/** What the text format says of each metric; the bounds of histograms are no label. */
function metricsIn(text: string): Described[] {
  const metrics = new Map<string, Described>();
  let name = '';
  let help = '';
  for (const line of text.split('\n')) {
    const [, comment, subject, rest] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (comment === 'HELP') [name, help] = [subject!, rest!];
    else if (comment === 'TYPE') metrics.set(name, { name, help, type: rest!, labels: new Set() });
    else if (line !== '') {
      expect(line.startsWith(name), `${line} belongs to ${name}`).toBe(true);
      for (const [, label] of (/\{.*\}/.exec(line)?.[0] ?? '').matchAll(/[{,](\w+)="/g))
        if (label !== 'le') metrics.get(name)!.labels.add(label!);
    }
  }
  return [...metrics.values()];
}

const UNITS: readonly (readonly [ending: RegExp, unit: string])[] = [
  [/_(seconds|secs|seconds_total)$/, 's'],
  [/_us$/, 'µs'],
  [/_bytes$/, 'bytes'],
  [/_rps$/, 'requests/s'],
  [/_cores$/, 'CPUs'],
  [/_(ratio|utilization)$/, 'share'],
  [/_accuracy_total$/, 'sum of shares'],
  [/_(up|active|unplaced)$/, '0 or 1'],
  [/_version$/, 'number of a version'],
  [/_weight$/, 'weight'],
  [/./, 'count'],
];

function tableOf(metrics: readonly Described[]): string {
  return table(
    ['metric', 'type', 'labels', 'unit', 'meaning'],
    metrics
      .toSorted((a, b) => a.name.localeCompare(b.name))
      .map(({ name, type, help, labels }) => {
        const unit = UNITS.find(([ending]) => ending.test(name))![1];
        return [code(name), type, [...labels].join(', '), unit, help];
      }),
  );
}

const record: FleetRecord = {
  schemaVersion: FLEET_RECORD_SCHEMA_VERSION,
  term: 1,
  savedMs: 0,
  plan: { reason: '', utilization: 0.5, accuracy: 0.9, unplaced: [], unservedRps: { m: 2 } },
  balancer: { kind: 'NGINX' },
  servers: [
    {
      name: 'edge "1"',
      http: '127.0.0.1:8000',
      health: 'up',
      cpus: 2,
      utilization: 0.4,
      tasks: [{ task: 'm', version: 3, weight: 1, demandRps: 10 }],
    },
    { name: 'edge-2', http: '127.0.0.1:8010', health: 'down', cpus: 2, tasks: [] },
  ],
  tasks: [{ task: 'm', demandRps: 12 }],
  decisions: [],
};

describe('metrics', () => {
  let folder: string;
  let notices: string;
  let server: Awaited<ReturnType<typeof start>>;
  let text: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-observability-'));
    await writeConstantFamily(folder, 'm', [
      [0.9, 100],
      [0.8, 200],
    ]);
    const told = administrators({ logger: pino({ level: 'silent' }), clock: systemClock });
    told.hear('http://127.0.0.1:8000', undefined);
    notices = told.metricsText();
    server = await start(folder, { limits: { maxLatencyMs: 1000 }, moreMetrics: () => notices });
    const infer = (parameters?: object) =>
      call(server, 'POST', '/v2/models/m/infer', {
        inputs: [{ name: 'image', datatype: 'FP32', shape: [1, 1], data: [0] }],
        parameters,
      });
    expect((await infer()).status).toBe(200);
    // Of requests that come together and cannot wait, the first may be answered and the rest is refused, which begins a series.
    const hurried = Array.from({ length: 64 }, () => infer({ max_latency_ms: 1e-6 }));
    expect((await Promise.all(hurried)).some(({ status }) => status >= 400)).toBe(true);
    text = await (await request(server.metricsUrl)).body.text();
  });
  afterAll(async () => {
    await server.close();
    await rm(folder, { recursive: true });
  });

  it('are listed in the reference as server and orchestrator tell them', async () => {
    const metrics = fleetMetrics();
    metrics.update(record);
    const page = [
      '# Metrics',
      GENERATED_NOTE,
      'What servers and orchestrators tell Prometheus; [observability.md](../observability.md) says how to watch them. A share is in [0, 1].',
      '## Metrics of a server',
      '`bonsai_notice_*` are there with `--policy`, `bonsai_repository_*` with [a bucket](../repository.md#a-server-of-a-bucket).',
      tableOf(metricsIn(text)),
      '## Metrics of an orchestrator',
      '`bonsai orchestrate` has `bonsai_notice_*`; with the file of a fleet also the rest, of which all but the first two are shown only by the ' +
        'orchestrator that holds the lease.',
      tableOf([...metricsIn(metrics.text()), ...metricsIn(notices)]),
    ];
    // Where it is stale: npm run docs.
    await expect(`${page.join('\n\n')}\n`).toMatchFileSnapshot(join(root, 'docs/reference/metrics.md'));
  });

  it('of a fleet say what its record says, and are withdrawn with the lease', () => {
    const metrics = fleetMetrics();
    metrics.count({ atMs: 0, kind: 'failed', text: '' });
    metrics.update(record);
    const lines = metrics.text().split('\n');
    for (const line of [
      'bonsai_fleet_active 1',
      'bonsai_fleet_decisions_total{kind="failed"} 1',
      'bonsai_fleet_decisions_total{kind="plan"} 0',
      String.raw`bonsai_fleet_server_up{server="edge \"1\""} 1`,
      'bonsai_fleet_server_up{server="edge-2"} 0',
      String.raw`bonsai_fleet_serving_version{server="edge \"1\"",model="m"} 3`,
      'bonsai_fleet_unserved_rps{model="m"} 2',
      'bonsai_fleet_balancer_up 1',
    ])
      expect(lines).toContain(line);
    metrics.update(undefined);
    expect(metrics.text()).toContain('bonsai_fleet_active 0');
    expect(metrics.text()).not.toContain('bonsai_fleet_server_up');
  });

  it('that rules and dashboard ask for are there', () => {
    const metrics = fleetMetrics();
    metrics.update(record);
    const names = new Set(
      [...metricsIn(text), ...metricsIn(metrics.text())].flatMap(({ name, type }) =>
        type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
      ),
    );
    const rules = parse(readFileSync(join(root, 'deploy/prometheus/bonsai.rules.yml'), 'utf8')) as {
      groups: { rules: { expr: string; record?: string; alert?: string }[] }[];
    };
    const all = rules.groups.flatMap((group) => group.rules);
    for (const { record } of all) if (record !== undefined) names.add(record);
    const dashboard = readFileSync(join(root, 'deploy/grafana/bonsai.json'), 'utf8');
    const expressions = [
      ...all.map(({ expr }) => expr),
      ...[...dashboard.matchAll(/"expr": "(.*)"/g)].map((match) => match[1]!),
    ];
    const asked = expressions.flatMap((text) => text.match(/\b(bonsai|nv|process)[_:][\w:]+/g) ?? []);
    expect(asked.length).toBeGreaterThan(40);
    expect([...new Set(asked)].filter((name) => !names.has(name))).toEqual([]);
    // Each alert has its row in the documentation.
    const page = readFileSync(document, 'utf8');
    const alerts = all.flatMap(({ alert }) => alert ?? []);
    expect(alerts.filter((alert) => !page.includes(`| \`${alert}\` `))).toEqual([]);
  });

  it('count what could not be loaded', async () => {
    await rm(join(folder, 'm/2/model.onnx'));
    const reply = await call(server, 'POST', '/v2/repository/models/m/load', {
      parameters: { config: '{"version_policy":{"specific":{"versions":[2]}}}' },
    });
    expect(reply.status).toBeGreaterThanOrEqual(400);
    const after = await (await request(server.metricsUrl)).body.text();
    expect(after).toMatch(/^bonsai_version_load_failures_total\{model="m"\} [1-9]/m);
    // What served before still does.
    expect(after).toMatch(/^bonsai_serving_version\{model="m"\} 1$/m);
  });
});
