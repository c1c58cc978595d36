import { CHART_STYLE } from './experiment-report.ts';
import { REPORT_STYLE } from './html.ts';
import type { Markup } from './svg.ts';

/**
 * A figure as a file of its own, for pages that show it as an image: with the style of reports inside, on a ground of its own,
 * since such a page may be dark where the reader's preference says light.
 * @param figure one drawing of `svg.ts`: its title and description stay first
 */
export function figureFile(figure: Markup): string {
  const opening = /^<svg[^>]*>.*?<\/desc>/s.exec(figure)![0];
  const ground = '<rect width="100%" height="100%" style="fill:var(--page)"/>';
  const style = `<style>${REPORT_STYLE}${CHART_STYLE}</style>`.replaceAll('\n', '');
  return `${opening}${style}${ground}${figure.slice(opening.length)}\n`.replaceAll('><', '>\n<');
}
