import { linearScale, logScale, niceDomain, type Scale, tickLabel, ticksOf } from './axes.ts';
import { dots, drawing, element, label, line, type Markup, pixel } from './svg.ts';

/** A point of a chart. */
export interface ChartPoint {
  readonly x: number;
  readonly y: number;
  /** Written beside it. */
  readonly label?: string;
  /** With an outline, as the thesis marks pruned networks. */
  readonly isOutlined?: boolean;
}

export interface ChartSeries {
  readonly name: string;
  /** `cloud`: many small dots, at most one a pixel. */
  readonly kind: 'dots' | 'line' | 'dots-and-line' | 'cloud' | 'bars';
  readonly points: readonly ChartPoint[];
  /** Which of the palette's colours; by default its place in the list. `ink`: black on white, white on black. */
  readonly color?: number | 'ink';
}

export interface ChartAxis {
  readonly title: string;
  readonly kind?: 'linear' | 'log';
  /** By default round numbers around all points. */
  readonly domain?: readonly [number, number];
  /** Names in place of numbers, at 0, 1, 2, … */
  readonly names?: readonly string[];
}

export interface ChartOptions {
  readonly id: string;
  readonly title: string;
  readonly x: ChartAxis;
  readonly y: ChartAxis;
  readonly series: readonly ChartSeries[];
  /** Horizontal lines: with a name, such as an objective; dashed without one. */
  readonly rules?: readonly { readonly y: number; readonly name: string }[];
  readonly width?: number;
  readonly height?: number;
}

export const CHART = {
  width: 960,
  height: 320,
  left: 66,
  right: 20,
  top: 18,
  bottom: 48,
  /** Room at the right for the longest name of a series, at so many pixels a letter. */
  letter: 6.6,
  dotRadius: 4.5,
  labelHeight: 13,
} as const;

/** How many colours there are; more series begin again. */
export const PALETTE_SIZE = 8;

/** Series of points over two axes, their names at the right. */
export function chart(options: ChartOptions): Markup {
  const { id, title, series, rules = [] } = options;
  const { left, top, bottom, letter } = CHART;
  const width = options.width ?? CHART.width;
  const height = options.height ?? CHART.height;
  const named = series.length > 1;
  const legendWidth = named ? 26 + letter * Math.max(...series.map(({ name }) => name.length)) : 0;
  const right = CHART.right + legendWidth;
  const points = series.flatMap((each) => each.points).filter(isFinitePoint);
  const x = axisScale(
    options.x,
    points.map((point) => point.x),
    [left, width - right],
  );
  const y = axisScale(
    options.y,
    [...points.map((point) => point.y), ...rules.map((rule) => rule.y)],
    [height - bottom, top],
  );
  return drawing(
    {
      id,
      width,
      height,
      title,
      description: `${options.y.title} over ${options.x.title}: ${series.map(({ name, points: own }) => `${name} (${own.length} points)`).join(', ') || 'no data'}.`,
    },
    [
      ...leftAxis(options.y, y, width - right),
      ...bottomAxis(options.x, x, y.range[0], height),
      ...rules.flatMap((rule) => [
        line(left, y.at(rule.y), width - right, y.at(rule.y), rule.name === '' ? 'budget' : 'slo'),
        label(width - right - 6, y.at(rule.y) - 5, rule.name, { class: 'slo-label end' }),
      ]),
      ...series.map((each, i) => element('g', { class: colorClass(each, i) }, seriesMarkup(each, x, y))),
      ...placedLabels(
        series.flatMap((each) =>
          each.points
            .filter((point) => point.label !== undefined && isFinitePoint(point))
            .map((point) => ({ x: x.at(point.x), y: y.at(point.y), text: point.label! })),
        ),
        width - right,
      ),
      ...(named ? legend(series, width - right + 12, top) : []),
    ],
  );
}

function isFinitePoint({ x, y }: ChartPoint): boolean {
  return Number.isFinite(x) && Number.isFinite(y);
}

function colorClass({ color }: ChartSeries, place: number): string {
  return color === 'ink' ? 'ink' : `c${(color ?? place) % PALETTE_SIZE}`;
}

/** A scale over all values; one of a single value has room on both sides. */
export function axisScale(
  axis: ChartAxis,
  values: readonly number[],
  range: readonly [number, number],
): Scale {
  if (axis.names !== undefined) return linearScale([-0.5, axis.names.length - 0.5], range);
  const known = values.filter((value) => Number.isFinite(value) && (axis.kind !== 'log' || value > 0));
  const low = known.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);
  const high = known.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  if (axis.kind === 'log') {
    const [from, to] = axis.domain ?? (known.length === 0 ? [1, 10] : [low / 1.3, high * 1.3]);
    return logScale([from, to], range);
  }
  if (axis.domain !== undefined) return linearScale(axis.domain, range);
  if (known.length === 0) return linearScale([0, 1], range);
  const margin = high > low ? 0.04 * (high - low) : Math.max(0.5, Math.abs(high) * 0.1);
  return linearScale(niceDomain(low - margin < 0 && low >= 0 ? 0 : low - margin, high + margin, 6), range);
}

export function leftAxis(axis: ChartAxis, y: Scale, gridTo: number): Markup[] {
  const { left } = CHART;
  const middle = (y.range[0] + y.range[1]) / 2;
  return [
    ...ticksOf(y, 6).flatMap((tick) => [
      line(left, y.at(tick), gridTo, y.at(tick), 'grid'),
      label(left - 8, y.at(tick) + 4, tickLabel(tick), { class: 'tick end' }),
    ]),
    label(15, middle, axis.title, {
      class: 'axis-title middle',
      transform: `rotate(-90 15 ${pixel(middle)})`,
    }),
  ];
}

export function bottomAxis(axis: ChartAxis, x: Scale, floor: number, height: number): Markup[] {
  const marks =
    axis.names === undefined
      ? ticksOf(x, 8).map((tick) => ({ at: tick, text: tickLabel(tick) }))
      : axis.names.map((text, at) => ({ at, text }));
  return [
    line(x.range[0], floor, x.range[1], floor, 'axis'),
    ...marks.flatMap(({ at, text }) => [
      line(x.at(at), floor, x.at(at), floor + 4, 'axis'),
      label(x.at(at), floor + 17, text, { class: 'tick middle' }),
    ]),
    label((x.range[0] + x.range[1]) / 2, height - 8, axis.title, { class: 'axis-title middle' }),
  ];
}

function seriesMarkup({ kind, points }: ChartSeries, x: Scale, y: Scale): Markup[] {
  const known = points.filter(isFinitePoint);
  const places = known.map((point) => [x.at(point.x), clamped(y.at(point.y), y)] as const);
  if (kind === 'cloud') return dots(places, 'cloud');
  if (kind === 'bars') {
    const floor = y.range[0];
    return places.map(([left, top]) => line(left, floor, left, top, 'bar'));
  }
  const markup: Markup[] = [];
  if (kind !== 'dots' && places.length > 1) {
    markup.push(
      element('path', {
        class: 'curve',
        d: `M${places.map(([left, top]) => `${pixel(left)} ${pixel(top)}`).join('L')}`,
      }),
    );
  }
  if (kind !== 'line') {
    for (const [i, [cx, cy]] of places.entries()) {
      const className = known[i]!.isOutlined ? 'point outlined' : 'point';
      markup.push(element('circle', { cx, cy, r: CHART.dotRadius, class: className }));
    }
  }
  return markup;
}

/** Within the drawing: what lies beyond a given domain is drawn at its edge. */
function clamped(place: number, { range: [floor, top] }: Scale): number {
  return Math.min(floor, Math.max(top, place));
}

function legend(series: readonly ChartSeries[], left: number, top: number): Markup[] {
  return series.flatMap((each, i) => {
    const y = top + 8 + 18 * i;
    return [
      element('g', { class: colorClass(each, i) }, [
        each.kind === 'line' || each.kind === 'bars'
          ? element('path', { class: 'curve', d: `M${pixel(left - 4)} ${pixel(y)}h12` })
          : element('circle', { cx: left + 2, cy: y, r: CHART.dotRadius, class: 'point' }),
      ]),
      label(left + 13, y + 4, each.name, { class: 'tick' }),
    ];
  });
}

/** Labels up and right of their points; one that would lie on another is moved, or left out where there is no room. */
function placedLabels(wanted: readonly { x: number; y: number; text: string }[], edge: number): Markup[] {
  const { letter, labelHeight } = CHART;
  const placed: { x: number; y: number; width: number }[] = [];
  return wanted.flatMap(({ x, y, text }) => {
    const width = text.length * letter;
    const left = x + 7 + width > edge ? x - 7 - width : x + 7;
    const tries = [-6, 12, -6 - labelHeight, 12 + labelHeight, -6 - 2 * labelHeight];
    const overlaps = (top: number) =>
      placed.some(
        (other) =>
          left < other.x + other.width && other.x < left + width && Math.abs(top - other.y) < labelHeight,
      );
    const offset = tries.find((each) => !overlaps(y + each));
    if (offset === undefined) return [];
    placed.push({ x: left, y: y + offset, width });
    return [label(left, y + offset, text, { class: 'variant-label' })];
  });
}
