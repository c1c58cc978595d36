import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { FleetRecord } from '../../src/orchestrate/fleet/record.ts';
import type { FleetOverview } from '../../src/serve/control/messages.ts';
import { chromiumPath, launch } from './browser.fixture.ts';
import { ask, freePort, orchestrate, type Served, serve, writeTasks } from './served.fixture.ts';

const TOKEN = 'the-secret-of-the-administrator';
const WAIT = { timeout: 60_000, interval: 100 };
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** From the death of a server to the orchestrator's knowing it. */
const NOTICED_MS = 3_000;

describe.skipIf(chromiumPath === undefined)("a fleet's page", () => {
  let root: string;
  let file: string;
  let browser: Browser;
  let servers: [Served, Served];
  let stop: () => Promise<void>;
  let url: string;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-fleet-page-'));
    file = join(root, 'fleet.yaml');
    await writeTasks(root, ['digits', 'signs']);
    await writeFile(join(root, 'admin'), `${TOKEN}\n`);
    const start = () =>
      serve(root, 'off', [
        '--model-control-mode',
        'explicit',
        '--load-model',
        'digits',
        '--admin-token-file',
        'admin',
      ]);
    [browser, ...servers] = await Promise.all([launch(), start(), start()]);
    await writeFile(
      file,
      [
        'repository: .',
        'servers:',
        ...servers.flatMap(({ http, metrics }, i) => [
          `  - name: edge-${i + 1}`,
          `    url: ${http}`,
          `    metrics: ${new URL(metrics).origin}`,
          '    memory: 512MB',
          '    token-file: admin',
        ]),
        'tasks:',
        '  - name: digits',
        '  - name: signs',
        '    replicas: 1',
      ].join('\n'),
    );
    const port = await freePort();
    stop = orchestrate(root, port, [], file);
    url = `http://127.0.0.1:${port}/`;
    await vi.waitFor(async () => expect((await fetch(url)).status).toBe(200), WAIT);
  });
  afterAll(async () => {
    await browser?.close();
    await stop?.();
    await Promise.all((servers ?? []).map((server) => server.kill()));
    await rm(root, { recursive: true, force: true });
  });

  async function open(address = url): Promise<Page> {
    const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
    page.setDefaultTimeout(30_000);
    await page.goto(address);
    await page.locator('.state.live').waitFor();
    return page;
  }

  const fleet = async () => (await (await fetch(`${url}api/v1/fleet`)).json()) as FleetOverview<FleetRecord>;
  const numbersIn = (text: string | null) => Number((text ?? '').replace(/[^0-9.]/g, ''));
  const row = (page: Page, name: string) => page.locator(`[data-server=${name}]`);
  const all = (record: FleetRecord | undefined) => {
    const placed = record?.servers.flatMap(({ tasks }) => tasks.map(({ task }) => task)) ?? [];
    return placed.sort().join(' ');
  };

  test('shows the numbers that /api/v1/fleet tells, and a server of its own', async () => {
    const page = await open();
    await vi.waitFor(async () => {
      await ask(servers[0].http, 'digits', 10);
      const { state, orchestrator, policy } = await fleet();
      expect(all(state)).toBe('digits digits signs');
      expect(orchestrator.isActive).toBe(true);
      expect(policy).toBe('plan');
      expect(state!.tasks.find(({ task }) => task === 'digits')!.arrivalRps).toBeGreaterThan(0);
    }, WAIT);
    // Both are looked at until they are of the same second.
    await vi.waitFor(async () => {
      const shown = await page.evaluate(() => {
        const text = (selector: string) => document.querySelector(selector)?.textContent ?? '';
        return {
          up: text('.figures [data-value=up]'),
          plan: text('[data-value=plan]'),
          demand: text('.fleet-task[data-task=digits] [data-value=demand]'),
          planned: text('.fleet-task[data-task=digits] [data-value=planned]'),
          hosts: text('.fleet-task[data-task=digits] [data-value=hosts]'),
          accuracy: text('.fleet-task[data-task=digits] [data-value=accuracy]'),
          weights: [...document.querySelectorAll('[data-server] [data-value=weight]')].map(
            (e) => e.textContent,
          ),
        };
      });
      const state = (await fleet()).state!;
      const digits = state.tasks.find(({ task }) => task === 'digits')!;
      expect(shown.up).toBe('2 of 2');
      expect(shown.plan).toBe(`Plan: ${state.plan.reason}`);
      expect(numbersIn(shown.demand)).toBeCloseTo(digits.arrivalRps!, 1);
      expect(numbersIn(shown.planned)).toBeCloseTo(digits.demandRps, 1);
      expect(shown.hosts).toBe(`${digits.hosts} of ${digits.replicas}`);
      expect(numbersIn(shown.accuracy)).toBeCloseTo(100 * digits.servedAccuracy!, 1);
      const weights = state.servers.flatMap(({ tasks }) => tasks.map(({ weight }) => String(weight)));
      expect(shown.weights.toSorted()).toEqual(weights.toSorted());
    }, WAIT);
    expect(await page.locator('[data-value=lease]').textContent()).toMatch(
      /process \d+ on .* has held the lease for/,
    );
    await page.getByRole('link', { name: 'edge-2' }).click();
    await page.locator('.row.machine').waitFor();
    expect(
      await page.getByLabel('Server', { exact: true }).first().locator('option').allTextContents(),
    ).toEqual(['edge-1', 'edge-2']);
    await page.getByRole('link', { name: 'Fleet' }).click();
    await row(page, 'edge-1').waitFor();
    await page.close();
  });

  test('lets nobody without the token drain a server, and drains it with it; the command takes it back', async () => {
    const page = await open();
    await row(page, 'edge-1').getByRole('button', { name: 'Drain edge-1' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Drain' }).click();
    await dialog.getByRole('alert').waitFor();
    expect(await dialog.getByRole('alert').textContent()).toContain('token');
    await dialog.getByLabel("Administrator's token").fill(TOKEN);
    await dialog.getByRole('button', { name: 'Drain' }).click();
    await dialog.waitFor({ state: 'hidden' });
    await row(page, 'edge-1').getByText('drained', { exact: true }).waitFor();
    await page.getByText('By hand: edge-1 is drained').first().waitFor();
    await vi.waitFor(async () => {
      const { state } = await fleet();
      const [first, second] = state!.servers;
      expect(first!.tasks).toEqual([]);
      expect(second!.tasks.map(({ task, version }) => [task, version !== undefined])).toEqual([
        ['digits', true],
        ['signs', true],
      ]);
    }, WAIT);
    const text = execFileSync(process.execPath, [main, 'fleet', 'status', file], { encoding: 'utf8' });
    expect(text).toContain('By hand: edge-1 is drained');
    const said = execFileSync(process.execPath, [main, 'fleet', 'undrain', 'edge-1', file], {
      encoding: 'utf8',
    });
    expect(said).toMatch(/^edge-1 is taken back: process \d+ on /);
    await vi.waitFor(async () => expect((await fleet()).state!.servers[0]!.tasks).not.toEqual([]), WAIT);
    await page.close();
  });

  test('pins a version in the whole fleet', async () => {
    const page = await open();
    await page.getByRole('button', { name: 'Change digits' }).click();
    await page.getByLabel('Version that answers').selectOption('3');
    await page.getByLabel("Administrator's token").fill(TOKEN);
    await page.getByRole('button', { name: 'Apply' }).click();
    await page.getByText('pinned to v3', { exact: true }).waitFor();
    for (const { http } of servers)
      await vi.waitFor(async () => expect(await ask(http, 'digits', 1)).toEqual(new Map([[3, 1]])), WAIT);
    await page.getByText('By hand: digits is pinned to version 3.').first().waitFor();
    await page.close();
  });

  test('says of an orchestrator that waits for the lease that it does, and shows the fleet', async () => {
    const port = await freePort();
    const end = orchestrate(root, port, [], file);
    try {
      const other = `http://127.0.0.1:${port}/`;
      await vi.waitFor(async () => expect((await fetch(other)).status).toBe(200), WAIT);
      const page = await open(other);
      await page.getByText(/This orchestrator waits: process \d+ .* has held the lease/).waitFor();
      await row(page, 'edge-2').waitFor();
      await page.close();
    } finally {
      await end();
    }
  });

  test('shows a server that is killed as down, and why', async () => {
    const page = await open();
    await row(page, 'edge-2').getByText('up', { exact: false }).first().waitFor();
    const killedMs = Date.now();
    await servers[1].kill();
    await page.locator('[data-server=edge-2][data-health=down]').waitFor();
    const down = (await fleet()).state!.servers.find(({ name }) => name === 'edge-2')!;
    expect(down.healthSinceMs! - killedMs).toBeLessThan(NOTICED_MS);
    expect(await row(page, 'edge-2').locator('p.bad').textContent()).toBe(down.trouble);
    expect(await page.locator('.figures [data-value=down]').textContent()).toBe('1');
    await page.close();
  });
});
