/**
 * Photographs every view of the live page, on a desk and a phone, light and dark, over made-up servers.
 * node dist/bench/dashboard/pictures/views.js FOLDER
 */
import { cp, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { launch } from '../e2e/browser.fixture.ts';
import { forEachView } from '../e2e/views.fixture.ts';

const folder = process.argv[2] ?? 'docs/views';
/** Long views are cut here; what comes below looks as what is above. */
const MAX_HEIGHT = 2400;

await mkdir(folder, { recursive: true });
// The control ports of this program show the page of the build.
await cp('dist/dashboard', fileURLToPath(new URL('../../src/dashboard', import.meta.url)), {
  recursive: true,
});
const browser = await launch();
await forEachView(browser, { withAxe: false }, async (page, name) => {
  // Charts are drawn over several frames of the screen.
  await page.waitForTimeout(300);
  const { width } = page.viewportSize()!;
  const height = Math.min(MAX_HEIGHT, await page.evaluate('document.documentElement.scrollHeight'));
  const isDialog = (await page.getByRole('dialog').count()) > 0;
  const bytes = await page.screenshot({
    fullPage: !isDialog,
    ...(!isDialog && { clip: { x: 0, y: 0, width, height: Math.max(height, 300) } }),
  });
  await sharp(bytes)
    .webp({ quality: 60 })
    .toFile(join(folder, `${name}.webp`));
  process.stdout.write(`${name}\n`);
});
await browser.close();
