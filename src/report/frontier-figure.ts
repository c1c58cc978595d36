import { linearScale, logScale, niceDomain, tickLabel, ticksOf } from './axes.ts';
import type { FrontierPoint } from './report-types.ts';
import { drawing, element, label, line, type Markup, pixel } from './svg.ts';

export const FRONTIER_FIGURE = {
  width: 960,
  height: 320,
  left: 62,
  right: 60,
  top: 18,
  bottom: 46,
  /** Throughputs further apart than this are drawn on a logarithmic axis. */
  logRatio: 8,
  /** Labels keep this many pixels between their baselines where they would overlap. */
  labelHeight: 14,
} as const;

/** Accuracy against throughput: every variant a labelled dot, the frontier a line through the best ones. */
export function frontierFigure(points: readonly FrontierPoint[], id: string): Markup {
  const { width, height, left, right, top, bottom, logRatio } = FRONTIER_FIGURE;
  const throughputs = points.flatMap(({ throughputRps, throughputRangeRps }) => [
    throughputRps,
    ...(throughputRangeRps ?? []),
  ]);
  const accuracies = points.map(({ accuracy }) => accuracy);
  const [low, high] = [Math.min(...throughputs), Math.max(...throughputs)];
  const isLog = low > 0 && high / low > logRatio;
  const x = isLog
    ? logScale([low * 0.85, high * 1.25], [left, width - right])
    : linearScale(niceDomain(0, high * 1.1, 8), [left, width - right]);
  const y = linearScale(niceDomain(Math.min(...accuracies) - 0.0005, Math.max(...accuracies), 6), [
    height - bottom,
    top,
  ]);
  const frontier = points
    .filter(({ isOnFrontier }) => isOnFrontier)
    .sort((a, b) => a.throughputRps - b.throughputRps);
  const best = frontier.at(-1);
  return drawing(
    {
      id,
      width,
      height,
      title: 'Accuracy against maximal throughput of the variants',
      description: `${points.length} variants, ${frontier.length} of them on the frontier${best === undefined ? '' : `; the fastest, ${best.label}, answers ${tickLabel(Math.round(best.throughputRps))} requests per second`}.`,
    },
    [
      ...ticksOf(y, 6).flatMap((tick) => [
        line(left, y.at(tick), width - right, y.at(tick), 'grid'),
        label(left - 8, y.at(tick) + 4, tickLabel(Number((tick * 100).toPrecision(6))), {
          class: 'tick end',
        }),
      ]),
      line(left, height - bottom, width - right, height - bottom, 'axis'),
      ...ticksOf(x, 8).flatMap((tick) => [
        line(x.at(tick), height - bottom, x.at(tick), height - bottom + 4, 'axis'),
        label(x.at(tick), height - bottom + 17, tickLabel(tick), { class: 'tick middle' }),
      ]),
      label(
        (left + width - right) / 2,
        height - 8,
        `maximal throughput (req/s${isLog ? ', logarithmic' : ''})`,
        {
          class: 'axis-title middle',
        },
      ),
      label(15, (top + height - bottom) / 2, 'accuracy (%)', {
        class: 'axis-title middle',
        transform: `rotate(-90 15 ${pixel((top + height - bottom) / 2)})`,
      }),
      ...(frontier.length < 2
        ? []
        : [
            element('path', {
              class: 'frontier-line',
              d: `M${frontier.map((p) => `${pixel(x.at(p.throughputRps))} ${pixel(y.at(p.accuracy))}`).join('L')}`,
            }),
          ]),
      ...points.flatMap(({ throughputRps, throughputRangeRps, accuracy, isOnFrontier }) => [
        ...(throughputRangeRps === undefined
          ? []
          : [
              line(
                x.at(throughputRangeRps[0]),
                y.at(accuracy),
                x.at(throughputRangeRps[1]),
                y.at(accuracy),
                'spread',
              ),
            ]),
        element('circle', {
          cx: x.at(throughputRps),
          cy: y.at(accuracy),
          r: 4.5,
          class: isOnFrontier ? 'variant best' : 'variant',
        }),
      ]),
      ...placedLabels(
        points.map((point) => ({ x: x.at(point.throughputRps), y: y.at(point.accuracy), text: point.label })),
      ),
    ],
  );
}

/** Labels up and right of their dots, moved up where they would lie on one set before. */
function placedLabels(wanted: readonly { x: number; y: number; text: string }[]): Markup[] {
  const { labelHeight } = FRONTIER_FIGURE;
  const placed: { x: number; y: number; width: number }[] = [];
  return wanted.map(({ x, y, text }) => {
    const width = text.length * 7;
    let [labelX, labelY] = [x + 8, y - 7];
    if (labelX + width > FRONTIER_FIGURE.width) labelX = x - 8 - width;
    const overlaps = () =>
      placed.some(
        (p) => labelX < p.x + p.width && p.x < labelX + width && Math.abs(labelY - p.y) < labelHeight,
      );
    while (overlaps() && labelY > labelHeight) labelY -= labelHeight;
    placed.push({ x: labelX, y: labelY, width });
    return label(labelX, labelY, text, { class: 'variant-label' });
  });
}
