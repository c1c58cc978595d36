import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { addAxe, overflowPx, violations } from './axe.fixture.ts';
import { chromiumPath, launch } from './browser.fixture.ts';
import { fleetBoard } from './fleet-board.fixture.ts';

const SERVERS = 200;
const HOUR = 3600;
const UPDATES = 10;
/** Once a second: what takes less than a third of it does not pile up. It takes 75 ms on an idle machine, and more on one with other work. */
const UPDATE_LIMIT_MS = 300;

describe.skipIf(chromiumPath === undefined)('the page of a fleet', () => {
  let browser: Browser;
  const boards: { close(): Promise<void> }[] = [];

  beforeAll(async () => {
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    for (const board of boards) await board.close();
  });

  async function open(size: number, seconds: number, options: Parameters<Browser['newContext']>[0] = {}) {
    const fleet = await fleetBoard(size);
    boards.push(fleet);
    fleet.push(seconds);
    const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    await page.goto(fleet.url);
    await page.locator('.state.live').waitFor();
    await page.locator('[data-server]').first().waitFor();
    return { fleet, page };
  }

  const namesIn = (page: Page) =>
    page.locator('[data-server]').evaluateAll((rows) => rows.map((row) => row.getAttribute('data-server')));

  for (const size of [3, SERVERS])
    for (const colorScheme of ['light', 'dark'] as const)
      for (const [device, viewport] of [
        ['a desk', { width: 1400, height: 900 }],
        ['a phone', { width: 390, height: 844 }],
      ] as const)
        test(`of ${size} servers has no barrier that axe knows, ${colorScheme} on ${device}`, async () => {
          // Its own policy would keep the test's script out.
          const { page } = await open(size, 400, { colorScheme, viewport, bypassCSP: true });
          await addAxe(page);
          expect(await violations(page)).toEqual([]);
          expect(await overflowPx(page)).toBeLessThanOrEqual(0);
          await page
            .getByRole('button', { name: 'Drain edge-1', exact: true })
            .or(page.getByRole('button', { name: /^Drain / }))
            .first()
            .click();
          await page.getByRole('dialog').waitFor();
          expect(await violations(page)).toEqual([]);
          await page.context().close();
        });

  test('of many servers shows those in trouble first, and finds the others by keyboard', async () => {
    const { page } = await open(SERVERS, 10);
    const first = await namesIn(page);
    expect(first.length).toBeLessThan(20);
    expect(first.slice(0, 3)).toEqual(['edge-21', 'edge-44', 'edge-67']);
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('To the servers');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    await page.keyboard.type('edge-19');
    await vi.waitFor(async () =>
      expect((await namesIn(page)).every((name) => name!.includes('edge-19'))).toBe(true),
    );
    expect(await page.locator('.servers [role=status]').textContent()).toBe(`11 of ${SERVERS}`);
    await page.getByRole('searchbox', { name: 'Name' }).fill('');
    await page.getByRole('combobox', { name: 'Health' }).selectOption('drained');
    await vi.waitFor(async () => expect((await namesIn(page)).slice(0, 2)).toEqual(['edge-22', 'edge-45']));
    await page.getByRole('combobox', { name: 'Health' }).selectOption('all');
    await page.getByRole('button', { name: `Show all ${SERVERS}` }).press('Enter');
    await vi.waitFor(async () => expect(await namesIn(page)).toHaveLength(SERVERS));
    const nameOf = (server: string) => page.locator(`[data-server=${server}] th`).textContent();
    expect(await nameOf('edge-3')).toContain('own policy: bonsai');
    expect(await nameOf('edge-4')).not.toContain('policy');
    await page.context().close();
  });

  test('of many servers is drawn anew in time, with an hour behind it and all of them shown', async () => {
    const { fleet, page } = await open(SERVERS, HOUR);
    // The hour of a large fleet is kept in as much room as that of a small one.
    expect(fleet.board.ring.lastSeq - fleet.board.ring.firstSeq).toBeLessThan(HOUR);
    expect(fleet.board.ring.lastSeq - fleet.board.ring.firstSeq).toBeGreaterThan(HOUR / 10);
    await page.getByRole('button', { name: `Show all ${SERVERS}` }).click();
    await page.getByRole('button', { name: '1 h', exact: true }).click();
    const session = await page.context().newCDPSession(page);
    // Time of the page's thread on a CPU, which the other work of this machine does not lengthen.
    await session.send('Performance.enable', { timeDomain: 'threadTicks' });
    const busyMs = async () =>
      1000 *
      (await session.send('Performance.getMetrics')).metrics.find(({ name }) => name === 'TaskDuration')!
        .value;
    const shows = async () => {
      const { demandRps } = fleet.record.servers[0]!.tasks[0]!;
      const text = demandRps >= 100 ? demandRps.toFixed(0) : demandRps.toFixed(1);
      const cell = page.locator('[data-server=edge-1] [data-value=demand]').first();
      await vi.waitFor(async () => expect(await cell.textContent()).toBe(text), {
        timeout: 30_000,
        interval: 50,
      });
    };
    fleet.push(1);
    await shows();
    await page.waitForTimeout(2_000);
    const before = await busyMs();
    for (let i = 0; i < UPDATES; i++) {
      fleet.push(1);
      await shows();
    }
    const updateMs = ((await busyMs()) - before) / UPDATES;
    console.log(`an hour of ${SERVERS} servers is drawn anew in ${updateMs.toFixed(0)} ms of one CPU`);
    expect(updateMs).toBeLessThan(UPDATE_LIMIT_MS);
    await page.context().close();
  });
});
