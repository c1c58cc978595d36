import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

const CANDIDATES = [
  process.env.BONSAI_CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
];

/** A browser of this machine; undefined: there is none, which is said once. */
export const chromiumPath = CANDIDATES.find((path) => path !== undefined && existsSync(path));

if (chromiumPath === undefined) {
  console.warn(
    'The tests of the live page are skipped: they need Chromium. Install it (Debian: apt-get install chromium), or name it in BONSAI_CHROMIUM.',
  );
}

export function launch(): Promise<Browser> {
  // Without a sandbox of its own, because containers of continuous integration run as root.
  return chromium.launch({ executablePath: chromiumPath, args: ['--no-sandbox'] });
}
