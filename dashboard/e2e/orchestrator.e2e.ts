import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { chromiumPath, launch } from './browser.fixture.ts';
import { ask, freePort, orchestrate, type Served, serve, writeTasks } from './served.fixture.ts';

const WAIT = { timeout: 30_000, interval: 100 };

describe.skipIf(chromiumPath === undefined)("an orchestrator's page", () => {
  let root: string;
  let browser: Browser;
  let servers: Served[];
  let stop: () => Promise<void>;
  let url: string;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-page-'));
    await writeTasks(root, ['digits']);
    [browser, ...servers] = await Promise.all([launch(), serve(root, 'off', []), serve(root, 'off', [])]);
    const port = await freePort();
    const addresses = servers.flatMap(({ http, metrics }) => ['--server', http, '--metrics', metrics]);
    stop = orchestrate(root, port, ['--policy', 'static:largest', ...addresses]);
    url = `http://127.0.0.1:${port}/`;
    await vi.waitFor(async () => expect((await fetch(url)).status).toBe(200), WAIT);
  });
  afterAll(async () => {
    await browser?.close();
    await stop?.();
    await Promise.all((servers ?? []).map((server) => server.kill()));
    await rm(root, { recursive: true, force: true });
  });

  test('shows each of its servers, and pins a version on all of them', async () => {
    const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
    page.setDefaultTimeout(15_000);
    await page.goto(url);
    await page.locator('.state.live').waitFor();
    const choice = page.getByLabel('Server', { exact: true }).locator('option');
    expect(await choice.allTextContents()).toEqual(servers.map(({ http }) => http));
    const demand = async () =>
      Number.parseFloat((await page.locator('[data-task=digits] [data-value=demand]').textContent()) ?? '');
    // Nobody asks the first one; the second one is asked until the page has seen it.
    await vi.waitFor(async () => expect(await demand()).toBe(0), WAIT);
    await page.getByRole('combobox', { name: 'Server' }).selectOption(servers[1]!.http);
    await vi.waitFor(async () => {
      await ask(servers[1]!.http, 'digits', 20);
      expect(await demand()).toBeGreaterThan(0);
    }, WAIT);
    await page.getByRole('button', { name: 'Change digits' }).click();
    await page.getByLabel('Version that answers').selectOption('4');
    await page.getByRole('button', { name: 'Apply' }).click();
    for (const { http } of servers)
      await vi.waitFor(async () => expect(await ask(http, 'digits', 1)).toEqual(new Map([[4, 1]])), WAIT);
    await page.getByText('By hand: digits is pinned to version 4').first().waitFor();
  });
});
