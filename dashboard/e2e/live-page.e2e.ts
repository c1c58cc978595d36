import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { addAxe, overflowPx, violations } from './axe.fixture.ts';
import { chromiumPath, launch } from './browser.fixture.ts';
import { ask, freePort, metric, type Served, serve, writeTasks } from './served.fixture.ts';

const TOKEN = 'the-secret-of-the-administrator';
const TASKS = ['cameras', 'digits', 'signs'];
const WAIT = { timeout: 30_000, interval: 100 };

describe.skipIf(chromiumPath === undefined)('the live page', () => {
  let root: string;
  let browser: Browser;
  let served: Served;
  let controlPort: number;
  const pages: Page[] = [];
  const start = () =>
    serve(root, controlPort, ['--policy', 'bonsai', '--slo', '100ms', '--admin-token-file', 'admin']);

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-page-'));
    await writeTasks(root, TASKS);
    await writeFile(join(root, 'admin'), `${TOKEN}\n`);
    controlPort = await freePort();
    [served, browser] = await Promise.all([start(), launch()]);
  });
  afterEach(async () => {
    for (const page of pages.splice(0)) await page.context().close();
  });
  afterAll(async () => {
    await browser?.close();
    await served?.kill();
    await rm(root, { recursive: true, force: true });
  });

  /** Opens the page; what it complains of fails the test that asks for it. */
  async function open(options: Parameters<Browser['newContext']>[0] = {}) {
    const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(15_000);
    pages.push(page);
    const complaints: string[] = [];
    const foreign: string[] = [];
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('request', (request) => {
      if (new URL(request.url()).origin !== new URL(served.control).origin) foreign.push(request.url());
    });
    await page.goto(served.control);
    await page.locator('.state.live').waitFor();
    await page.locator('[data-task=digits]').waitFor();
    return { page, complaints, foreign };
  }

  const textOf = async (page: Page, task: string, value: string) =>
    (await page.locator(`[data-task=${task}] [data-value=${value}]`).textContent()) ?? '';
  const numberOf = async (page: Page, task: string, value: string) =>
    Number((await textOf(page, task, value)).replace(/[^0-9.]/g, ''));

  test('shows the numbers that the metrics tell, and asks nobody else for anything', async () => {
    const { page, complaints, foreign } = await open();
    await Promise.all([
      ask(served.http, 'digits', 150),
      ask(served.http, 'cameras', 40),
      // Nothing answers within a nanosecond: refused, if something waits, or late.
      ask(served.http, 'signs', 20, { max_latency_ms: 0.000001 }),
    ]);
    for (const task of TASKS) {
      const labels = { model: task };
      const accepted = await metric(served.metrics, 'bonsai_requests_total', {
        ...labels,
        outcome: 'accepted',
      });
      const refused = await metric(served.metrics, 'bonsai_requests_refused_total', labels);
      await vi.waitFor(async () => {
        expect(await numberOf(page, task, 'accepted')).toBe(accepted);
        expect(await numberOf(page, task, 'refused')).toBe(refused);
      }, WAIT);
      const late = await metric(served.metrics, 'bonsai_deadline_slack_seconds_bucket', {
        ...labels,
        le: '0',
      });
      expect(await numberOf(page, task, 'late')).toBe(late);
    }
    expect(await numberOf(page, 'digits', 'accepted')).toBeGreaterThanOrEqual(150);
    const signs = (await numberOf(page, 'signs', 'refused')) + (await numberOf(page, 'signs', 'late'));
    expect(signs).toBeGreaterThanOrEqual(20);
    expect(await page.locator('.where').textContent()).toContain('policy bonsai');
    expect(await page.locator('.log td.changes').first().textContent()).toMatch(/version/);
    expect(foreign).toEqual([]);
    expect(complaints).toEqual([]);
  });

  test('draws: every chart of a task has ink where its data are', async () => {
    const { page } = await open();
    await page.getByRole('button', { name: '1 min', exact: true }).click();
    await ask(served.http, 'digits', 100);
    await vi.waitFor(async () => {
      const inked = await page.locator('[data-task=digits] canvas').evaluateAll((canvases) =>
        (canvases as HTMLCanvasElement[]).map((canvas) => {
          const { data } = canvas.getContext('2d')!.getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) {
            const [red, green, blue, alpha] = data.subarray(i, i + 4) as unknown as [
              number,
              number,
              number,
              number,
            ];
            if (alpha > 20 && Math.max(green, blue) - Math.min(red, green, blue) > 30) count++;
          }
          return count;
        }),
      );
      // Axes and grid are grey and the objective is red; the area, the bands and the dots are green, blue or violet.
      expect(inked).toHaveLength(3);
      for (const pixels of inked) expect(pixels).toBeGreaterThan(20);
    }, WAIT);
    expect(await page.locator('[data-task=digits] svg circle').count()).toBe(4);
  });

  test('comes back by itself after the server has been started anew', async () => {
    const { page } = await open();
    await served.kill();
    await page.locator('.state.lost').waitFor();
    served = await start();
    await page.locator('.state.live').waitFor();
    await ask(served.http, 'digits', 7);
    const accepted = () =>
      metric(served.metrics, 'bonsai_requests_total', { model: 'digits', outcome: 'accepted' });
    await vi.waitFor(
      async () => expect(await numberOf(page, 'digits', 'accepted')).toBe(await accepted()),
      WAIT,
    );
    expect(await accepted()).toBe(7);
  });

  test('changes nothing without the token, and what it is told to with it', async () => {
    const { page } = await open();
    await page.getByRole('button', { name: 'Change digits' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Version that answers').selectOption('3');
    await dialog.getByLabel('Latency objective in ms').fill('80');
    await dialog.getByRole('button', { name: 'Apply' }).click();
    await dialog.getByRole('alert').waitFor();
    expect(await dialog.getByRole('alert').textContent()).toContain('token');
    expect(await textOf(page, 'digits', 'slo')).toBe('100 ms');
    await dialog
      .getByLabel('Administrator’s token')
      .or(dialog.getByLabel("Administrator's token"))
      .fill(TOKEN);
    await dialog.getByRole('button', { name: 'Apply' }).click();
    await dialog.waitFor({ state: 'hidden' });
    await vi.waitFor(async () => expect(await textOf(page, 'digits', 'slo')).toBe('80 ms'), WAIT);
    await page.getByText('pinned to v3', { exact: true }).waitFor();
    await vi.waitFor(
      async () => expect(await ask(served.http, 'digits', 5)).toEqual(new Map([[3, 5]])),
      WAIT,
    );
    await page.getByRole('cell', { name: 'pin digits to version 3' }).waitFor();
    // And back.
    await page.getByRole('button', { name: 'Change digits' }).click();
    await dialog.getByLabel('Version that answers').selectOption('');
    await dialog.getByLabel('Latency objective in ms').fill('');
    await dialog.getByRole('button', { name: 'Apply' }).click();
    await vi.waitFor(async () => expect(await textOf(page, 'digits', 'slo')).toBe('100 ms'), WAIT);
    const heading = page.locator('[data-task=digits] h2');
    await vi.waitFor(async () => expect(await heading.textContent()).not.toContain('pinned'), WAIT);
  });

  test('is worked by keyboard alone', async () => {
    const { page } = await open();
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('To the charts');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    await page.locator('#charts').focus();
    await page.keyboard.press('Space');
    await page.locator('.state.paused').waitFor();
    await page.keyboard.press('1');
    expect(await page.getByRole('button', { name: '1 min', exact: true }).getAttribute('aria-pressed')).toBe(
      'true',
    );
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('Escape');
    await page.locator('.state.live').waitFor();
    expect(await page.getByRole('button', { name: '5 min', exact: true }).getAttribute('aria-pressed')).toBe(
      'true',
    );
    // Into a dialog and out of it; the focus is where it was.
    await page.getByRole('button', { name: 'Change signs' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    expect(await page.evaluate(() => document.activeElement?.getAttribute('aria-label'))).toBe(
      'Change signs',
    );
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    for (const [device, viewport] of [
      ['a desk', { width: 1400, height: 900 }],
      ['a phone', { width: 390, height: 844 }],
    ] as const) {
      test(`has no barrier that axe knows, ${colorScheme} on ${device}`, async () => {
        // Its own policy would keep the test's script out.
        const { page } = await open({ colorScheme, viewport, bypassCSP: true });
        await ask(served.http, 'digits', 20);
        await addAxe(page);
        expect(await violations(page)).toEqual([]);
        await page.getByRole('button', { name: 'Change digits' }).click();
        await page.getByRole('dialog').waitFor();
        expect(await violations(page)).toEqual([]);
        expect(await overflowPx(page)).toBeLessThanOrEqual(0);
      });
    }
  }
});
