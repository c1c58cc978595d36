import type uPlot from 'uplot';
import type { FleetTaskSeries } from './fleet-series.ts';
import { palette } from './palette.ts';

/** The colour of a server, by its place in the fleet: neighbours differ, and it never changes. */
export function serverColour(place: number): string {
  // The golden angle: any number of colours are as far from each other as can be.
  const hue = (145 + place * 137.508) % 360;
  return palette().isDark ? `oklch(0.72 0.11 ${hue})` : `oklch(0.64 0.12 ${hue})`;
}

/** Each server's demand on top of the one before. */
export function paintStack(
  u: uPlot,
  context: CanvasRenderingContext2D,
  { x, stack }: FleetTaskSeries,
  colourOf: (server: string | undefined) => string,
): void {
  const base = new Float64Array(x.length);
  // An hour of a large fleet has 20,000 corners: what is the same for all of them is found once.
  const left = Float64Array.from(x, (seconds) => u.valToPos(seconds, 'x', true));
  const bottom = u.valToPos(0, 'y', true);
  const pxPerRps = u.valToPos(1, 'y', true) - bottom;
  for (const { server, values } of stack) {
    context.fillStyle = colourOf(server);
    for (let start = 0; start < x.length; ) {
      if (values[start] === null) {
        start++;
        continue;
      }
      let end = start;
      while (end < x.length && values[end] !== null) end++;
      context.beginPath();
      for (let i = start; i < end; i++)
        context.lineTo(left[i]!, bottom + pxPerRps * (base[i]! + (values[i] ?? 0)));
      for (let i = end - 1; i >= start; i--) context.lineTo(left[i]!, bottom + pxPerRps * base[i]!);
      context.closePath();
      context.fill();
      start = end;
    }
    for (let i = 0; i < x.length; i++) base[i]! += values[i] ?? 0;
  }
}

/** A row for each server, in the colour of the version that served there. */
export function paintBands(
  u: uPlot,
  context: CanvasRenderingContext2D,
  { x, bands }: FleetTaskSeries,
  colours: ReadonlyMap<number, () => string>,
): void {
  const { muted } = palette();
  const resolved = new Map([...colours].map(([version, colour]) => [version, colour()]));
  const rowPx = u.bbox.height / Math.max(1, bands.length);
  const gapPx = rowPx > 8 * devicePixelRatio ? 2 * devicePixelRatio : rowPx > 3 ? 1 : 0;
  bands.forEach(({ versions }, row) => {
    const top = u.bbox.top + row * rowPx;
    for (let start = 0; start < x.length; ) {
      const version = versions[start] ?? null;
      let end = start + 1;
      // A band of one version is one rectangle: an hour of 200 servers has some thousand.
      while (end < x.length && versions[end] === version) end++;
      if (version !== null) {
        const from =
          x[start - 1] !== undefined && versions[start - 1] !== null ? x[start - 1]! : x[start]! - 1;
        const left = Math.round(u.valToPos(from, 'x', true));
        const right = Math.max(left + 1, Math.round(u.valToPos(x[end - 1]!, 'x', true)));
        context.fillStyle = resolved.get(version) ?? muted;
        context.fillRect(left, top, right - left, Math.max(1, rowPx - gapPx));
      }
      start = end;
    }
  });
}
