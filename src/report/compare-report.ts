import { linearScale, logScale, niceDomain, tickLabel, ticksOf } from './axes.ts';
import { htmlPage, section, table } from './html.ts';
import { drawing, element, escapeText, label, line, type Markup, pixel } from './svg.ts';

/** A mean with the half width of its 95 % interval; NaN for a single run. */
export interface Spread {
  readonly mean: number;
  readonly halfWidth: number;
}

/** What a comparison shows of one policy; ratios in [0, 1]. */
export interface ComparedPolicy {
  readonly name: string;
  readonly meaning: string;
  readonly violationRatio: Spread;
  readonly meanAccuracy: Spread;
  readonly effectiveAccuracy: Spread;
  readonly cpuUtilization: Spread;
  readonly p99Ms: Spread;
  readonly loadsPerMinute: Spread;
}

/** Columns of the table of policies, for the page and the terminal alike. */
export const COMPARE_COLUMNS: readonly {
  readonly heading: string;
  readonly meaning: string;
  readonly cell: (policy: ComparedPolicy) => string;
}[] = [
  { heading: 'policy', meaning: 'what decides', cell: ({ name }) => name },
  {
    heading: 'violations %',
    meaning: 'late, shed or failed, of all offered',
    cell: ({ violationRatio }) => spread(violationRatio, 100, 3),
  },
  {
    heading: 'accuracy %',
    meaning: 'normalised, mean over answers',
    cell: ({ meanAccuracy }) => spread(meanAccuracy, 100, 2),
  },
  {
    heading: 'effective %',
    meaning: 'accuracy of answers in time, over all offered',
    cell: ({ effectiveAccuracy }) => spread(effectiveAccuracy, 100, 2),
  },
  {
    heading: 'CPU %',
    meaning: 'mean use of the CPUs',
    cell: ({ cpuUtilization }) => spread(cpuUtilization, 100, 1),
  },
  { heading: 'p99 ms', meaning: '99 % of answers are faster', cell: ({ p99Ms }) => spread(p99Ms, 1, 0) },
  {
    heading: 'loads/min',
    meaning: 'versions loaded',
    cell: ({ loadsPerMinute }) => spread(loadsPerMinute, 1, 1),
  },
];

function spread({ mean, halfWidth }: Spread, factor: number, digits: number): string {
  if (!Number.isFinite(mean)) return '–';
  const center = (mean * factor).toFixed(digits);
  return Number.isFinite(halfWidth) ? `${center} ±${(halfWidth * factor).toFixed(digits)}` : center;
}

/** One HTML page: accuracy against violations, and the table of policies. */
export function renderCompareReport(input: {
  readonly title: string;
  readonly subtitle: string;
  readonly policies: readonly ComparedPolicy[];
  /** Name and value of what was simulated. */
  readonly setting: readonly (readonly [string, string])[];
}): string {
  const { title, subtitle, policies, setting } = input;
  const meanings = COMPARE_COLUMNS.slice(1, 4).map(({ heading, meaning }) => `${heading}: ${meaning}`);
  return htmlPage(title, [
    element('header', {}, [
      element('h1', {}, [escapeText(title)]),
      element('p', { class: 'lead' }, [escapeText(subtitle)]),
    ]),
    ...section('Accuracy against violations', [element('figure', {}, [compareFigure(policies, 'compare')])]),
    ...section('Policies', [
      table(
        `Means with 95 % confidence intervals over seeds (${meanings.join('; ')}).`,
        COMPARE_COLUMNS.map(({ heading }) => heading),
        policies.map((policy) => COMPARE_COLUMNS.map(({ cell }) => cell(policy))),
        'numbers',
      ),
    ]),
    ...section('What was simulated', [
      element(
        'dl',
        {},
        setting.flatMap(([name, value]) => [
          element('dt', {}, [escapeText(name)]),
          element('dd', {}, [escapeText(value)]),
        ]),
      ),
    ]),
  ]);
}

export const COMPARE_FIGURE = {
  width: 960,
  height: 440,
  left: 62,
  right: 150,
  top: 18,
  bottom: 46,
  /** Violations below this share are drawn at it: a logarithm has no 0, and a run of 26,000 requests no finer share. */
  leastRatio: 0.00002,
  labelHeight: 13,
} as const;

/** Up and to the left is better: violations on a logarithmic axis, 95 % intervals as bars. */
export function compareFigure(policies: readonly ComparedPolicy[], id: string): Markup {
  const { width, height, left, right, top, bottom, leastRatio } = COMPARE_FIGURE;
  const shown = policies.filter(({ meanAccuracy }) => Number.isFinite(meanAccuracy.mean));
  const accuracies = shown.map(({ meanAccuracy }) => 100 * meanAccuracy.mean);
  const x = logScale([100 * leastRatio, 100], [left, width - right]);
  const y = linearScale(niceDomain(Math.min(...accuracies, 99) - 1, Math.max(...accuracies, 60) + 1, 6), [
    height - bottom,
    top,
  ]);
  const clampedX = (ratio: number) => x.at(100 * Math.min(1, Math.max(leastRatio, ratio)));
  const places = shown.map((policy) => ({
    policy,
    left: clampedX(policy.violationRatio.mean),
    top: y.at(100 * policy.meanAccuracy.mean),
  }));
  return drawing(
    {
      id,
      width,
      height,
      title: 'Accuracy against violations of the policies',
      description: `${shown.length} policies; up and to the left is better.`,
    },
    [
      ...ticksOf(y, 8).flatMap((tick) => [
        line(left, y.at(tick), width - right, y.at(tick), 'grid'),
        label(left - 8, y.at(tick) + 4, tickLabel(tick), { class: 'tick end' }),
      ]),
      line(left, height - bottom, width - right, height - bottom, 'axis'),
      ...ticksOf(x, 8).flatMap((tick) => [
        line(x.at(tick), height - bottom, x.at(tick), height - bottom + 4, 'axis'),
        label(x.at(tick), height - bottom + 17, tickLabel(tick), { class: 'tick middle' }),
      ]),
      label(
        (left + width - right) / 2,
        height - 8,
        `violations (% of offered, logarithmic; left edge: ${tickLabel(100 * leastRatio)} % or less)`,
        { class: 'axis-title middle' },
      ),
      label(15, (top + height - bottom) / 2, 'mean accuracy (%)', {
        class: 'axis-title middle',
        transform: `rotate(-90 15 ${pixel((top + height - bottom) / 2)})`,
      }),
      ...places.flatMap((place) => [
        ...intervalBars(place.policy, clampedX, (accuracy) => y.at(100 * accuracy)),
        element('circle', { cx: place.left, cy: place.top, r: 4, class: 'variant best' }),
      ]),
      ...placedNames(places.map((place) => ({ x: place.left, y: place.top, text: place.policy.name }))),
    ],
  );
}

function intervalBars(
  { violationRatio, meanAccuracy }: ComparedPolicy,
  x: (ratio: number) => number,
  y: (accuracy: number) => number,
): Markup[] {
  if (!Number.isFinite(violationRatio.halfWidth + meanAccuracy.halfWidth)) return [];
  const { mean, halfWidth } = violationRatio;
  const height = y(meanAccuracy.mean);
  const place = x(mean);
  return [
    line(x(mean - halfWidth), height, x(mean + halfWidth), height, 'spread'),
    line(
      place,
      y(meanAccuracy.mean - meanAccuracy.halfWidth),
      place,
      y(meanAccuracy.mean + meanAccuracy.halfWidth),
      'spread',
    ),
  ];
}

/** Names to the right of their dots, the highest first, moved down where they would lie on one set before. */
function placedNames(wanted: readonly { x: number; y: number; text: string }[]): Markup[] {
  const { labelHeight } = COMPARE_FIGURE;
  const placed: { x: number; y: number; width: number }[] = [];
  return wanted
    .toSorted((a, b) => a.y - b.y)
    .map(({ x, y, text }) => {
      const box = { x: x + 8, y: y + 4, width: text.length * 6.6 };
      const overlaps = () =>
        placed.some(
          (other) =>
            box.x < other.x + other.width &&
            other.x < box.x + box.width &&
            Math.abs(box.y - other.y) < labelHeight,
        );
      while (overlaps()) box.y += labelHeight;
      placed.push(box);
      return label(box.x, box.y, text, { class: 'variant-label' });
    });
}
