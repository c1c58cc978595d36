import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Access } from '../../src/serve/safety/tokens.ts';
import { overflowPx, violations } from './axe.fixture.ts';
import { chromiumPath, launch } from './browser.fixture.ts';
import { type LiveBoard, liveBoard, lookAt } from './live-board.fixture.ts';
import { forEachView } from './views.fixture.ts';

const TOKEN = 'what-a-reader-knows';
const WAIT = { timeout: 30_000, interval: 100 };

/** Texts that reach out of the panel that they are in. */
function spilled(page: Page): Promise<(string | null)[]> {
  return page
    .locator('.panel')
    .evaluateAll((panels) =>
      panels.flatMap((panel) =>
        [...panel.querySelectorAll('dt, dd, h2, h3, button')]
          .filter((part) => part.getBoundingClientRect().right > panel.getBoundingClientRect().right)
          .map((part) => part.textContent),
      ),
    );
}

describe.skipIf(chromiumPath === undefined)('every view', () => {
  let browser: Browser;
  const boards: LiveBoard[] = [];
  beforeAll(async () => {
    browser = await launch();
  });
  afterAll(async () => {
    await browser?.close();
    for (const board of boards) await board.close();
  });

  async function open(options: Parameters<typeof liveBoard>[0], viewport = { width: 1400, height: 900 }) {
    const board = await liveBoard(options);
    boards.push(board);
    board.push(30);
    const page = await browser.newPage({ viewport });
    await page.goto(board.url);
    return { board, page };
  }

  test('has no barrier that axe knows, and nothing that reaches out of its place', async () => {
    const found: string[] = [];
    let count = 0;
    await forEachView(browser, { withAxe: true }, async (page, name) => {
      count++;
      for (const each of await violations(page)) found.push(`${name}: ${each}`);
      if ((await overflowPx(page)) > 0) found.push(`${name} scrolls sideways`);
      for (const text of await spilled(page)) found.push(`${name}: "${text}" reaches out of its panel`);
    });
    expect(found).toEqual([]);
    expect(count).toBe(36);
  }, 300_000);

  test('enlarged to 200 % still fits the width of a desk', async () => {
    // What a browser makes of a window of 1280 × 800 at 200 %.
    const { page } = await open({}, { width: 640, height: 400 });
    await page.locator('[data-task]').first().waitFor();
    expect(await overflowPx(page)).toBeLessThanOrEqual(0);
    await page.getByRole('button', { name: 'Change digits' }).click();
    const apply = page.getByRole('button', { name: 'Apply' });
    await apply.scrollIntoViewIfNeeded();
    expect((await apply.boundingBox())!.y).toBeLessThan(400);
  });

  test('asks for a token, says that a wrong one is wrong, and opens with the right one', async () => {
    const { page } = await open({ access: new Access({ inference: [TOKEN] }) });
    const alert = page.getByRole('alert');
    await alert.getByText('needs').waitFor();
    await page.getByLabel('Token').fill('something else');
    await page.keyboard.press('Enter');
    await alert.getByText('does not accept this token').waitFor();
    await page.getByLabel('Token').fill(TOKEN);
    await page.keyboard.press('Enter');
    await page.locator('[data-task=digits]').waitFor();
  });

  test('goes on when the clock of the server is set back, and forward', async () => {
    let shiftS = 0;
    const { board, page } = await open({
      look: (second) => {
        const look = lookAt(second);
        return { ...look, atMs: look.atMs + 1000 * shiftS };
      },
    });
    await page.locator('[data-task=digits]').waitFor();
    const shows = async () => {
      const { accepted } = lookAt(board.second).tasks.digits!.totals!;
      const cell = page.locator('[data-task=digits] [data-value=accepted]');
      await vi.waitFor(
        async () => expect(await cell.textContent()).toBe(accepted.toLocaleString('en')),
        WAIT,
      );
    };
    await shows();
    for (const shift of [-3600, 7200, 0]) {
      shiftS = shift;
      // With a decision among them, which is told of whatever time it is.
      board.push(20);
      await shows();
      const decided = board.second - (board.second % 20);
      const expected = new Date(lookAt(decided).atMs + 1000 * shift).toISOString();
      const latest = page.locator('.log time').first();
      await vi.waitFor(async () => expect(await latest.getAttribute('datetime')).toBe(expected), WAIT);
    }
  });

  test('shows tasks that appear, and forgets those that vanish', async () => {
    const tasks = ['digits'];
    const { board, page } = await open({ tasks });
    await page.locator('[data-task=digits]').waitFor();
    tasks.push('signs');
    board.push(1);
    await page.locator('[data-task=signs]').waitFor();
    await page.getByRole('button', { name: 'Change digits' }).click();
    tasks.splice(0, 2);
    board.push(1);
    await page.getByText('No task is served here yet.').waitFor();
    expect(await page.getByRole('dialog').count()).toBe(0);
  });

  test('moves in time with a finger, and zooms with two', async () => {
    const { page } = await open({}, { width: 390, height: 844 });
    const chart = page.locator('[data-task=digits] .canvas').first();
    await chart.scrollIntoViewIfNeeded();
    const { x, y, width, height } = (await chart.boundingBox())!;
    const session = await page.context().newCDPSession(page);
    const at = (...xs: number[]) => xs.map((each, id) => ({ x: x + width * each, y: y + height / 2, id }));
    const swipe = async (from: number[], to: number[]) => {
      const touch = (type: 'touchStart' | 'touchMove' | 'touchEnd', xs: number[]) =>
        session.send('Input.dispatchTouchEvent', { type, touchPoints: at(...xs) });
      await touch('touchStart', from);
      for (let step = 1; step <= 10; step++)
        await touch(
          'touchMove',
          from.map((start, i) => start + ((to[i]! - start) * step) / 10),
        );
      await touch('touchEnd', []);
    };
    const state = page.locator('.state');
    expect(await state.textContent()).toBe('Live');
    await swipe([0.4], [0.8]);
    await vi.waitFor(async () => expect(await state.textContent()).toBe('Paused'), WAIT);
    await swipe([0.8], [0.2]);
    await vi.waitFor(async () => expect(await state.textContent()).toBe('Live'), WAIT);
    const minutes = page.getByRole('button', { name: '5 min', exact: true });
    expect(await minutes.getAttribute('aria-pressed')).toBe('true');
    await swipe([0.45, 0.65], [0.25, 0.85]);
    await vi.waitFor(async () => expect(await minutes.getAttribute('aria-pressed')).toBe('false'), WAIT);
  });
});
