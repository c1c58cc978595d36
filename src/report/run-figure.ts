import { linearScale, logScale, niceDomain, type Scale, tickLabel, ticksOf } from './axes.ts';
import type { RequestDot, RunReport, VersionChange } from './report-types.ts';
import { dots, drawing, element, label, line, type Markup } from './svg.ts';

export const RUN_FIGURE = {
  width: 960,
  latencyHeight: 210,
  cpuHeight: 76,
  /** Room for tick labels and axis titles at the left and right. */
  left: 62,
  right: 60,
  /** Title line and demand numbers. */
  top: 46,
  gap: 16,
  bottom: 38,
  /**
   * Latency goes logarithmic when the 99.5 % quantile is this many times the median: on a linear axis most
   * dots would then lie in the lowest hundredth.
   */
  logRatio: 20,
  /** A linear axis ends at least here, in SLOs, so that the SLO line stands clear of the edges. */
  linearSlos: 1.5,
  /** A demand step's number is left out where the last one written is nearer than this. */
  minLabelGap: 26,
  /** A version's name is left out where its band is narrower. */
  minBandLabelWidth: 14,
  /** Signs for clipped and unanswered requests stand this far apart at least. */
  markGap: 7,
} as const;

/** What all runs of a report share, so that they can be compared by eye. */
export interface SharedScales {
  readonly durationMs: number;
  readonly latency: Pick<Scale, 'kind' | 'domain'>;
  readonly accuracyDomain: readonly [number, number];
  /** Highest CPU use shown, ≥ 1. */
  readonly cpuMax: number;
  /** Versions in order of accuracy, best first: their place chooses the band's shade. */
  readonly versions: readonly string[];
}

/** Common axes of several runs. */
export function sharedScales(runs: readonly RunReport[], sloMs: number): SharedScales {
  const bands = runs.flatMap((run) => run.versions);
  const accuracies = bands.map(({ accuracy }) => accuracy);
  const accuracyOf = new Map(bands.map(({ version, accuracy }) => [version, accuracy]));
  const lowest = accuracies.length === 0 ? 0 : Math.min(...accuracies);
  const highest = accuracies.length === 0 ? 1 : Math.max(...accuracies);
  // Bands start below the lowest accuracy, or the worst version's would have no height.
  const spread = Math.max(highest - lowest, 0.01);
  let cpuMax = 1;
  let durationMs = 1;
  for (const run of runs) {
    durationMs = Math.max(durationMs, run.durationMs);
    for (const { utilization } of run.cpu) cpuMax = Math.max(cpuMax, utilization);
  }
  return {
    durationMs,
    latency: latencyAxis(
      runs.flatMap((run) => run.requests),
      sloMs,
    ),
    accuracyDomain: niceDomain(Math.max(0, lowest - 0.6 * spread), Math.min(1, highest + 0.15 * spread), 4),
    cpuMax: Math.min(2, Math.ceil(cpuMax * 4 - 1e-9) / 4),
    versions: [...accuracyOf].sort((a, b) => b[1] - a[1]).map(([version]) => version),
  };
}

/**
 * One run as the thesis draws it (figures 5.12 to 5.18): above, a dot for each request's latency over
 * coloured bands of the serving version, whose height is its accuracy (right axis), with the SLO in red and
 * demand steps in dotted green; below, the use of the CPU.
 */
export function runFigure(run: RunReport, sloMs: number, shared: SharedScales, id: string): Markup {
  const { width, latencyHeight, cpuHeight, left, right, top, gap, bottom } = RUN_FIGURE;
  const floor = top + latencyHeight;
  const hasCpu = run.cpu.length > 0;
  const cpuFloor = hasCpu ? floor + gap + cpuHeight : floor;
  const x = linearScale([0, shared.durationMs / 1000], [left, width - right]);
  const makeLatency = shared.latency.kind === 'log' ? logScale : linearScale;
  const latency = makeLatency(shared.latency.domain, [floor, top]);
  const accuracy = linearScale(shared.accuracyDomain, [floor, top]);
  const cpu = linearScale([0, shared.cpuMax], [cpuFloor, floor + gap]);
  const { lateRatio, meanAccuracy } = run.summary;
  return drawing(
    {
      id,
      width,
      height: cpuFloor + bottom,
      title: `Run ${run.name}`,
      description:
        `${run.requests.length} requests over ${tickLabel(run.durationMs / 1000)} seconds; ` +
        `${percent(lateRatio)} later than ${tickLabel(sloMs)} ms, refused or failed; mean accuracy ${percent(meanAccuracy)}. ` +
        `Above: latency of each request and the version that served.${hasCpu ? ' Below: use of the CPU.' : ''}`,
    },
    [
      label(left, 16, run.name, { class: 'run-name' }),
      label(width - right, 16, `${percent(lateRatio)} late · ${percent(meanAccuracy)} right`, {
        class: 'note end',
      }),
      ...versionBands(run, x, accuracy, shared),
      ...yAxis(latency, left, width - right, 'left', tickLabel),
      ...yAxis(accuracy, width - right, width - right, 'right', (value) => tickLabel(value * 100)),
      ...(hasCpu
        ? yAxis(cpu, left, width - right, 'left', (value) => String(Math.round(value * 100)), 2)
        : []),
      ...(run.demandCurve === undefined
        ? demandLines(run, x, top, cpuFloor)
        : demandCurve(run.demandCurve, x, floor, top)),
      ...(hasCpu ? cpuArea(run, x, cpu, shared.durationMs) : []),
      ...latencyDots(run.requests, sloMs, x, latency),
      ...sloLine(sloMs, x, latency),
      ...versionNames(run, x, floor),
      ...xAxis(x, cpuFloor),
      sideTitle(15, (top + floor) / 2, 'latency (ms)', -90),
      sideTitle(width - 10, (top + floor) / 2, 'accuracy (%)', 90),
      ...(hasCpu ? [sideTitle(15, cpuFloor - cpuHeight / 2, 'CPU (%)', -90)] : []),
    ],
  );
}

/** A ratio as a percentage with 2 decimals at most; – for NaN. */
export function percent(ratio: number): string {
  return Number.isFinite(ratio) ? `${Number((ratio * 100).toFixed(2))} %` : '–';
}

function latencyAxis(requests: readonly RequestDot[], sloMs: number): Pick<Scale, 'kind' | 'domain'> {
  const latencies = requests
    .filter(({ outcome }) => outcome === 'ok')
    .map(({ latencyMs }) => latencyMs)
    .sort((a, b) => a - b);
  const at = (q: number) => latencies[Math.ceil(q * (latencies.length - 1))] ?? sloMs;
  const high = Math.max(at(0.995), sloMs * RUN_FIGURE.linearSlos);
  if (high / Math.max(at(0.5), 0.001) < RUN_FIGURE.logRatio) {
    return { kind: 'linear', domain: [0, niceDomain(0, high, 5)[1]] };
  }
  const low = Math.max(0.1, Math.min(at(0.005), sloMs / 10));
  return { kind: 'log', domain: [niceLog(low, Math.floor), niceLog(high, Math.ceil)] };
}

/** The next of 1, 2, 5 × 10^k below or above. */
function niceLog(value: number, round: (x: number) => number): number {
  const steps = [1, 2, 5, 10];
  const power = 10 ** Math.floor(Math.log10(value));
  const inside = value / power;
  const step =
    round === Math.floor ? steps.findLast((s) => s <= inside + 1e-9) : steps.find((s) => s >= inside - 1e-9);
  return power * (step ?? 1);
}

/** From when to when each version served, in pixels. */
function bandsOf(run: RunReport, x: Scale): { change: VersionChange; start: number; end: number }[] {
  return run.versions.map((change, i) => ({
    change,
    start: x.at(change.atMs / 1000),
    end: x.at((run.versions[i + 1]?.atMs ?? run.durationMs) / 1000),
  }));
}

function versionBands(run: RunReport, x: Scale, accuracy: Scale, shared: SharedScales): Markup[] {
  return bandsOf(run, x).flatMap(({ change, start, end }) => {
    const topY = accuracy.at(change.accuracy);
    const shade = shared.versions.indexOf(change.version) / Math.max(1, shared.versions.length - 1);
    return [
      element('rect', {
        class: 'band',
        x: start,
        y: topY,
        width: Math.max(0, end - start),
        height: accuracy.range[0] - topY,
        'fill-opacity': 0.34 - 0.22 * shade,
      }),
      line(start, topY, end, topY, 'band-top'),
    ];
  });
}

/** Drawn last, with a halo: dots often lie where the names are. */
function versionNames(run: RunReport, x: Scale, floor: number): Markup[] {
  return bandsOf(run, x)
    .filter(({ start, end }) => end - start >= RUN_FIGURE.minBandLabelWidth)
    .map(({ change, start }) => label(start + 4, floor - 6, change.version, { class: 'version' }));
}

function latencyDots(requests: readonly RequestDot[], sloMs: number, x: Scale, latency: Scale): Markup[] {
  const [floor, top] = latency.range;
  const onTime: [number, number][] = [];
  const late: [number, number][] = [];
  const clipped: [number, number][] = [];
  const unanswered: [number, number][] = [];
  for (const { dueMs, latencyMs, outcome } of requests) {
    const left = x.at(dueMs / 1000);
    const y = Math.min(floor, latency.at(Math.max(latencyMs, latency.domain[0])));
    if (outcome === 'refused' || outcome === 'error') unanswered.push([left, top - 4]);
    else if (outcome === 'timeout' || y < top) clipped.push([left, top + 3]);
    else (latencyMs > sloMs ? late : onTime).push([left, y]);
  }
  return [
    ...dots(onTime, 'dot on-time'),
    ...dots(late, 'dot late'),
    ...marks(clipped, (left, y) => `M${left - 3} ${y + 4}l3 -5l3 5z`, 'clipped'),
    ...marks(unanswered, (left, y) => `M${left - 2} ${y - 2}l4 4m0 -4l-4 4`, 'unanswered'),
  ];
}

/** Small signs along the upper edge, never so dense that they merge. */
function marks(
  places: readonly [number, number][],
  draw: (x: number, y: number) => string,
  className: string,
): Markup[] {
  const paths = new Set(
    places.map(([left, y]) => draw(Math.round(left / RUN_FIGURE.markGap) * RUN_FIGURE.markGap, y)),
  );
  return paths.size === 0 ? [] : [element('path', { class: className, d: [...paths].join('') })];
}

function sloLine(sloMs: number, x: Scale, latency: Scale): Markup[] {
  const y = latency.at(sloMs);
  return [
    line(x.range[0], y, x.range[1], y, 'slo'),
    label(x.range[1] - 6, y - 5, `SLO ${tickLabel(sloMs)} ms`, { class: 'slo-label end' }),
  ];
}

function demandLines(run: RunReport, x: Scale, top: number, floor: number): Markup[] {
  let lastLabel = Number.NEGATIVE_INFINITY;
  return [
    label(x.range[0] - 6, top - 10, 'req/s', { class: 'demand-label end' }),
    ...run.demand.flatMap(({ atMs, rps }) => {
      const left = x.at(atMs / 1000);
      const drawn = [line(left, top - 6, left, floor, 'demand')];
      if (left - lastLabel >= RUN_FIGURE.minLabelGap) {
        lastLabel = left;
        drawn.push(
          label(left + 2, top - 10, tickLabel(Number(rps.toPrecision(3))), { class: 'demand-label' }),
        );
      }
      return drawn;
    }),
  ];
}

/** From 0 at the floor to its peak at the top, which is named. */
function demandCurve(
  curve: NonNullable<RunReport['demandCurve']>,
  x: Scale,
  floor: number,
  top: number,
): Markup[] {
  const peak = Math.max(...curve.map(({ rps }) => rps));
  if (!(peak > 0)) return [];
  const y = linearScale([0, peak], [floor, top]);
  const places = curve.map(({ atMs, rps }) => `${x.at(atMs / 1000).toFixed(1)} ${y.at(rps).toFixed(1)}`);
  return [
    element('path', { class: 'demand-curve', d: `M${places.join('L')}` }),
    label(x.range[0] + 2, top - 10, `demand, at its peak ${tickLabel(Number(peak.toPrecision(3)))} req/s`, {
      class: 'demand-label',
    }),
  ];
}

function cpuArea(run: RunReport, x: Scale, cpu: Scale, durationMs: number): Markup[] {
  const full = line(x.range[0], cpu.at(1), x.range[1], cpu.at(1), 'budget');
  const shown = run.cpu.filter(({ atMs }) => atMs <= durationMs);
  if (shown.length < 2) return [full];
  const points = shown.map(({ atMs, utilization }) => {
    const y = cpu.at(Math.min(utilization, cpu.domain[1]));
    return `${x.at(atMs / 1000).toFixed(1)} ${y.toFixed(1)}`;
  });
  const [start, end] = [x.at(shown[0]!.atMs / 1000).toFixed(1), x.at(shown.at(-1)!.atMs / 1000).toFixed(1)];
  const floor = cpu.range[0];
  return [
    element('path', { class: 'cpu-area', d: `M${start} ${floor}L${points.join('L')}L${end} ${floor}z` }),
    element('path', { class: 'cpu-line', d: `M${points.join('L')}` }),
    full,
  ];
}

function xAxis(x: Scale, floor: number): Markup[] {
  return [
    line(x.range[0], floor, x.range[1], floor, 'axis'),
    ...ticksOf(x, 10).flatMap((tick) => [
      line(x.at(tick), floor, x.at(tick), floor + 4, 'axis'),
      label(x.at(tick), floor + 17, tickLabel(tick), { class: 'tick middle' }),
    ]),
    label((x.range[0] + x.range[1]) / 2, floor + 34, 'time (s)', { class: 'axis-title middle' }),
  ];
}

function yAxis(
  y: Scale,
  atX: number,
  gridTo: number,
  side: 'left' | 'right',
  format: (value: number) => string,
  count = 5,
): Markup[] {
  const away = side === 'left' ? -1 : 1;
  return ticksOf(y, count).flatMap((tick) => [
    ...(gridTo === atX ? [] : [line(atX, y.at(tick), gridTo, y.at(tick), 'grid')]),
    line(atX, y.at(tick), atX + 4 * away, y.at(tick), 'axis'),
    label(atX + 8 * away, y.at(tick) + 4, format(tick), { class: side === 'left' ? 'tick end' : 'tick' }),
  ]);
}

function sideTitle(x: number, y: number, text: string, degrees: number): Markup {
  return label(x, y, text, { class: 'axis-title middle', transform: `rotate(${degrees} ${x} ${y})` });
}
