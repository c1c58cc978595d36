/// <reference lib="dom" />
/**
 * Films the live page for README.md: a real server of the zoo, whose demand rises to several times what its most
 * accurate network can carry, and falls again. The page is photographed once a second, as it changes; the film is
 * played faster.
 * node dist/bench/dashboard/pictures/moving.js [FILM [STILL [PEAK]]], PEAK in requests per second
 */
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import {
  CLIENT_CPU,
  clientOf,
  clock,
  openLoop,
  pinTo,
  sleep,
  startServer,
} from '../../bench/serve-harness.ts';
import { seededRandom } from '../../src/base/random.ts';
import { launch } from '../e2e/browser.fixture.ts';

const film = process.argv[2] ?? 'docs/live-page-moving.webp';
const still = process.argv[3] ?? 'docs/live-page-still.webp';

/** More than twice what the most accurate version carries on one core of an AMD EPYC; less for slower machines. */
const peakRps = Number(process.argv[4] ?? 900);

const TASK = 'cifar10';
const SHAPE = [1, 3, 32, 32];
/** Two charts side by side, whose letters can still be read where the picture is shown 800 pixels wide. */
const VIEWPORT = { width: 880, height: 690 };
/** [second, requests per second], straight lines between. */
const DEMAND = [
  [0, 0.06 * peakRps],
  [30, 0.06 * peakRps],
  [50, peakRps],
  [72, peakRps],
  [88, 0.06 * peakRps],
  [100, 0.06 * peakRps],
] as const;
/** Seconds until the film begins: the line of the time before is there. */
const BEGIN_S = 18;
const END_S = DEMAND.at(-1)![0];
/** Of the still picture: demand is at its height, and what answers it has changed. */
const STILL_S = 80;
const FRAME_MS = 170;
/** The last one, so that its end can be looked at. */
const LAST_FRAME_MS = 2500;

// A repository of this task alone: the log is below it.
const root = await mkdtemp(join(tmpdir(), 'bonsai-film-'));
await cp(join('zoo/models', TASK), join(root, TASK), { recursive: true });
const server = await startServer(root, [...['--policy', 'bonsai', '--slo', '100ms', '--control-port', '0']]);
pinTo(CLIENT_CPU);
const client = clientOf(server.url, TASK, { input: 'image', shape: SHAPE }, 64);
const browser = await launch();
const page = await browser.newPage({ viewport: VIEWPORT, colorScheme: 'light', reducedMotion: 'reduce' });
await page.goto(server.controlUrl!);
await page.locator('.state.live').waitFor();
await page.getByRole('button', { name: '1 min', exact: true }).click();
await showTask();
await page.mouse.move(0, 0);

const beginMs = clock.nowMs();
const load = openLoop(client.infer, dueTimes(1));
const frames: Buffer[] = [];
let stillFrame: Buffer | undefined;
for (let second = BEGIN_S; second <= END_S; second++) {
  await sleep(beginMs + 1000 * second - clock.nowMs());
  // The row is not where it was before the numbers came.
  await showTask();
  frames.push(await page.screenshot({ type: 'png' }));
  if (second === STILL_S) stillFrame = frames.at(-1);
}
await browser.close();
const answers = await load;
await client.close();
await server.close();
await rm(root, { recursive: true, force: true });

const delay = frames.map((_, i) => (i === frames.length - 1 ? LAST_FRAME_MS : FRAME_MS));
const { size } = await sharp(frames, { join: { animated: true } })
  .webp({ quality: 62, effort: 3, loop: 0, delay })
  .toFile(film);
await sharp(stillFrame).webp({ quality: 80 }).toFile(still);
const failed = answers.filter(({ status }) => status !== 200).length;
process.stdout.write(
  `${frames.length} pictures, ${(delay.reduce((sum, ms) => sum + ms, 0) / 1000).toFixed(1)} s, ${(size / 1e6).toFixed(2)} MB; ` +
    `${answers.length} requests, ${failed} refused\n`,
);

/** Poisson arrivals along the demand, ms from the start. */
function dueTimes(seed: number): number[] {
  const random = seededRandom(seed);
  const highest = Math.max(...DEMAND.map(([, rps]) => rps));
  const times: number[] = [];
  for (let at = 0; ; ) {
    at += (-Math.log(1 - random.uniform()) * 1000) / highest;
    if (at >= 1000 * END_S) return times;
    // Thinned to what is wanted then.
    if (random.uniform() * highest < demandAt(at / 1000)) times.push(at);
  }
}

function demandAt(second: number): number {
  const next = DEMAND.findIndex(([at]) => at > second);
  const [[fromS, from], [toS, to]] = [DEMAND[next - 1]!, DEMAND[next]!];
  return from + ((second - fromS) / (toS - fromS)) * (to - from);
}

/** Below the bar, which stays on top: the task, and what was decided about it. */
function showTask(): Promise<void> {
  return page.locator(`[data-task=${TASK}]`).evaluate((row) => {
    const bar = document.querySelector('header')!.offsetHeight;
    scrollTo(0, (row as HTMLElement).offsetTop - bar - 8);
  });
}
