import type { Browser, Page } from 'playwright-core';
import { Access } from '../../src/serve/safety/tokens.ts';
import { addAxe } from './axe.fixture.ts';
import { fleetBoard } from './fleet-board.fixture.ts';
import { liveBoard, lookAt } from './live-board.fixture.ts';

/** More than people have, with names longer than they choose: where labels are cut off and numbers overlap. */
const MANY_TASKS = Array.from({ length: 12 }, (_, i) =>
  i === 0 ? 'defects-on-the-left-conveyor-belt-as-seen-by-the-third-camera' : `camera-${i}`,
);

const DEVICES = { desk: { width: 1400, height: 900 }, phone: { width: 390, height: 844 } } as const;
const THEMES = ['light', 'dark'] as const;

interface Board {
  readonly url: string;
  close(): Promise<void>;
}

interface View {
  open(): Promise<Board>;
  /** What it waits for before it is complete. */
  readonly ready: string;
  /** Brings it from the page that was opened to what is to be seen. */
  act?(page: Page): Promise<void>;
}

/** Every state of the page that looks different, over made-up servers. */
const VIEWS = {
  live: { open: () => pushed(liveBoard(), 300), ready: '[data-task]' },
  change: {
    open: () => pushed(liveBoard(), 300),
    ready: '[data-task]',
    act: (page) => page.getByRole('button', { name: 'Change digits' }).click(),
  },
  many: {
    open: () =>
      pushed(liveBoard({ tasks: MANY_TASKS, look: (second) => lookAt(second, MANY_TASKS, 4000) }), 300),
    ready: '[data-task]',
  },
  empty: { open: () => liveBoard({ tasks: [], policy: undefined }), ready: '.state.live' },
  started: { open: () => liveBoard(), ready: '[data-task]' },
  locked: {
    open: () => liveBoard({ access: new Access({ inference: ['a token that nobody knows'] }) }),
    ready: '#read-token',
  },
  fleet: { open: () => pushed(fleetBoard(3), 400), ready: '[data-server]' },
  drain: {
    open: () => pushed(fleetBoard(3), 400),
    ready: '[data-server]',
    act: (page) =>
      page
        .getByRole('button', { name: /^Drain / })
        .first()
        .click(),
  },
  'fleet-many': { open: () => pushed(fleetBoard(200), 400), ready: '[data-server]' },
} satisfies Record<string, View>;

async function pushed<B extends Board & { push(count: number): void }>(
  opening: Promise<B>,
  seconds: number,
): Promise<B> {
  const board = await opening;
  board.push(seconds);
  return board;
}

/**
 * Shows every view on a desk and on a phone, light and dark, one after another.
 * @param see gets each, by the name VIEW-DEVICE-THEME
 */
export async function forEachView(
  browser: Browser,
  options: { readonly withAxe: boolean },
  see: (page: Page, name: string) => Promise<void>,
): Promise<void> {
  for (const [name, view] of Object.entries<View>(VIEWS)) {
    const board = await view.open();
    for (const [device, viewport] of Object.entries(DEVICES))
      for (const colorScheme of THEMES) {
        const context = await browser.newContext({
          viewport,
          colorScheme,
          reducedMotion: 'reduce',
          // Its own policy would keep axe's script out.
          bypassCSP: options.withAxe,
        });
        const page = await context.newPage();
        await page.goto(board.url);
        await page.locator(view.ready).first().waitFor();
        await view.act?.(page);
        if (options.withAxe) await addAxe(page);
        await see(page, `${name}-${device}-${colorScheme}`);
        await context.close();
      }
    await board.close();
  }
}
