/// <reference lib="dom" />
/**
 * The live page in Chromium while three tasks of the zoo are asked 200 times a second each: how soon it paints, how
 * evenly it moves, what it holds in memory, and the same with an hour behind it. The hour is made of what the server
 * has told so far, told again as if it had been earlier, by a control port of the bench, which then tells on what the
 * server tells. Last, what axe-core finds wrong with every view.
 * node dist/bench/bench/live-page.js [minutes] [requests per second of each task]
 */
import { cp } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { Browser, CDPSession, Page } from 'playwright-core';
import { violations } from '../dashboard/e2e/axe.fixture.ts';
import { launch } from '../dashboard/e2e/browser.fixture.ts';
import { forEachView } from '../dashboard/e2e/views.fixture.ts';
import { Board } from '../src/serve/control/board.ts';
import type { Frame, HistoryPage, Overview } from '../src/serve/control/messages.ts';
import { createControlServer } from '../src/serve/control/server.ts';
import { Access } from '../src/serve/safety/tokens.ts';
import {
  CLIENT_CPU,
  clientOf,
  clock,
  openLoop,
  pinTo,
  poisson,
  quantile,
  say,
  sleep,
  startServer,
} from './serve-harness.ts';

const minutes = Number(process.argv[2] ?? 30);
const rps = Number(process.argv[3] ?? 200);

const TASKS = { cifar10: [1, 3, 32, 32], cifar100: [1, 3, 32, 32], mnist: [1, 1, 28, 28] } as const;
const VIEWPORT = { width: 1400, height: 900 };
/** Of a page that is opened anew, with nothing in its cache. */
const PAINTS = 5;
/** The server's start, over which the policy finds its versions, is left out. */
const WARM_UP_MS = 20_000;
const FPS_WINDOW_MS = 30_000;
/** Half a frame of the screen later than it should be: one was left out. */
const DROPPED_MS = 25;
const HOUR_FRAMES = 3600;
const PART_MS = 10_000;

// The control port of this bench shows the page of the build.
await cp('dist/dashboard', fileURLToPath(new URL('../src/dashboard', import.meta.url)), { recursive: true });
const server = await startServer('zoo/models', [
  ...['--policy', 'bonsai', '--slo', '100ms', '--control-port', '0'],
]);
pinTo(CLIENT_CPU); // The browser, a child of this process, too.
let isOver = false;
const streams = Object.entries(TASKS).map(async ([task, shape], i) => {
  const client = clientOf(server.url, task, { input: 'image', shape }, 32);
  for (let part = 0; !isOver; part++) await openLoop(client.infer, poisson(rps, PART_MS, 1000 * i + part));
  await client.close();
});
const browser = await launch();
await sleep(WARM_UP_MS);

say(`first contentful paint, ms: ${await paints(browser, server.controlUrl!)}`);
const now = await watch(browser, server.controlUrl!, '5 min', 0);
await tellSmoothness('five minutes shown', now);
const hour = await tellHour(server.controlUrl!);
say(`first contentful paint with an hour, ms: ${await paints(browser, hour.url)}`);
const old = await watch(browser, hour.url, '1 h', HOUR_FRAMES);
await tellSmoothness('an hour shown', old);

const beginMs = clock.nowMs();
say('minutes  heap MiB  nodes  heap MiB with an hour  nodes');
for (let minute = 0; minute <= minutes; minute += Math.max(1, minutes / 6)) {
  await sleep(beginMs + 60_000 * minute - clock.nowMs());
  const cells = [await memoryOf(now), await memoryOf(old)].map(
    ({ heapMib, nodes }) => `${heapMib.toFixed(2)}  ${nodes}`,
  );
  say(`${minute.toFixed(1)}  ${cells.join('  ')}`);
}
await tellSmoothness('five minutes shown', now);
await tellSmoothness('an hour shown', old);

isOver = true;
await Promise.all(streams);
await now.page.context().close();
await old.page.context().close();
await hour.close();
await server.close();

let total = 0;
await forEachView(browser, { withAxe: true }, async (page, name) => {
  const found = await violations(page);
  total += found.length;
  for (const each of found) say(`${name}: ${each}`);
});
say(`violations that axe-core finds over all views: ${total}`);
await browser.close();

interface Watch {
  readonly page: Page;
  readonly session: CDPSession;
  /** Of the stream, since it was opened. */
  received(): number;
}

/** Opens the page, with so much time shown, and waits until so many frames of the past are there. */
async function watch(from: Browser, url: string, range: string, frames: number): Promise<Watch> {
  const page = await (await from.newContext({ viewport: VIEWPORT })).newPage();
  const session = await page.context().newCDPSession(page);
  await session.send('Network.enable');
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  const streamIds = new Set<string>();
  let bytes = 0;
  session.on('Network.requestWillBeSent', ({ requestId, request }) => {
    if (request.url.includes('/events')) streamIds.add(requestId);
  });
  session.on('Network.dataReceived', ({ requestId, dataLength }) => {
    if (streamIds.has(requestId)) bytes += dataLength;
  });
  await page.goto(url);
  await page.locator('.state.live').waitFor();
  await page.getByRole('button', { name: range, exact: true }).click();
  // The past comes in pages of 300 frames.
  const pages = Math.ceil(frames / 300);
  await page.waitForFunction(
    (count) =>
      performance.getEntriesByType('resource').filter(({ name }) => name.includes('/history')).length >=
      count,
    pages,
  );
  await page.evaluate(() => {
    const tasks: number[] = [];
    Object.assign(window, { longTasks: tasks });
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) tasks.push(duration);
    }).observe({ type: 'longtask' });
  });
  return { page, session, received: () => bytes };
}

/** ms, of fresh pages. */
async function paints(from: Browser, url: string): Promise<string> {
  const times: number[] = [];
  for (let i = 0; i < PAINTS; i++) {
    const page = await (await from.newContext({ viewport: VIEWPORT })).newPage();
    await page.goto(url);
    await page.locator('.state.live').waitFor();
    const paint = () => performance.getEntriesByName('first-contentful-paint')[0]?.startTime;
    await page.waitForFunction(paint);
    times.push((await page.evaluate(paint))!);
    await page.context().close();
  }
  return `median ${quantile(times, 0.5).toFixed(0)}, slowest of ${PAINTS}: ${Math.max(...times).toFixed(0)}`;
}

async function tellSmoothness(what: string, { page, session, received }: Watch): Promise<void> {
  await page.bringToFront();
  const busyMs = async () => {
    const { metrics } = await session.send('Performance.getMetrics');
    return 1000 * metrics.find(({ name }) => name === 'TaskDuration')!.value;
  };
  const [bytesBefore, busyBefore] = [received(), await busyMs()];
  const { gaps, longTasks } = await page.evaluate(async (windowMs) => {
    const found = (window as unknown as { longTasks: number[] }).longTasks; // Put there by `watch`.
    found.length = 0;
    const times: number[] = [];
    await new Promise<void>((resolve) => {
      const note = (atMs: number) => {
        times.push(atMs);
        if (atMs - times[0]! < windowMs) requestAnimationFrame(note);
        else resolve();
      };
      requestAnimationFrame(note);
    });
    return { gaps: times.slice(1).map((atMs, i) => atMs - times[i]!), longTasks: [...found] };
  }, FPS_WINDOW_MS);
  const seconds = FPS_WINDOW_MS / 1000;
  const slowest = gaps.toSorted((a, b) => b - a).slice(0, Math.ceil(gaps.length / 100));
  const mean = slowest.reduce((sum, gap) => sum + gap, 0) / slowest.length;
  const dropped = gaps.filter((gap) => gap > DROPPED_MS).length;
  say(
    `${what}: ${(1000 / quantile(gaps, 0.5)).toFixed(1)} frames per second (median), 1 % low ${(1000 / mean).toFixed(1)}, ` +
      `${((100 * dropped) / gaps.length).toFixed(2)} % late, longest ${Math.max(...gaps).toFixed(0)} ms; ` +
      `${longTasks.length} long tasks${longTasks.length > 0 ? ` up to ${Math.max(...longTasks).toFixed(0)} ms` : ''}; ` +
      `its thread is busy ${(((await busyMs()) - busyBefore) / seconds).toFixed(0)} ms a second; ` +
      `stream ${((received() - bytesBefore) / seconds / 1000).toFixed(2)} KB/s`,
  );
}

/** After all garbage has been collected. */
async function memoryOf({ session }: Watch): Promise<{ readonly heapMib: number; readonly nodes: number }> {
  await session.send('HeapProfiler.collectGarbage');
  const { usedSize } = await session.send('Runtime.getHeapUsage');
  const { nodes } = await session.send('Memory.getDOMCounters');
  return { heapMib: usedSize / 2 ** 20, nodes };
}

/** A control port with an hour behind it, which goes on as the server at `url` does. */
async function tellHour(url: string): Promise<{ readonly url: string; close(): Promise<void> }> {
  const ask = async <T>(path: string): Promise<T> =>
    (await fetch(`${url}api/v1/${path}`)).json() as Promise<T>;
  let overview = await ask<Overview>('overview');
  const { frames } = await ask<HistoryPage>('history');
  const board = new Board({ server: 'an hour', describe: () => overview });
  const access = new Access();
  const onError = (thrown: unknown) => say(`the bench's control port: ${thrown}`);
  const control = createControlServer({ watched: [{ board }], access, clock, host: '127.0.0.1', onError });
  const push = ({ seq, events = [], overview: news, ...look }: Frame, shiftMs: number) => {
    if (news !== undefined) overview = news;
    for (const event of events) board.tell({ ...event, atMs: event.atMs - shiftMs });
    control.push(board, { ...look, atMs: look.atMs - shiftMs });
  };
  const lengthMs = frames.at(-1)!.atMs - frames[0]!.atMs + 1000;
  for (let round = Math.ceil(HOUR_FRAMES / frames.length); round > 0; round--)
    for (const { overview: _, ...frame } of frames) push(frame, round * lengthMs);
  let lastSeq = frames[0]!.seq - 1;
  const follow = async () => {
    const { frames: latest } = await ask<HistoryPage>('history?limit=300');
    for (const frame of latest.filter(({ seq }) => seq > lastSeq)) push(frame, 0);
    lastSeq = latest.at(-1)!.seq;
  };
  const timer = setInterval(() => void follow().catch(onError), 1000);
  await new Promise<void>((resolve) => control.server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(control.server.address() as AddressInfo).port}/`, // A listening TCP server has one.
    close: async () => {
      clearInterval(timer);
      control.endStreams();
      control.server.closeAllConnections();
      await new Promise((resolve) => control.server.close(resolve));
    },
  };
}
