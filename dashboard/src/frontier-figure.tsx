import type { TaskFrame, TaskOverview, VersionOverview } from '../../src/serve/control/messages.ts';
import { compact } from './chart.tsx';
import { percent } from './format.ts';
import { logTicks } from './ranges.ts';

const WIDTH = 200;
const HEIGHT = 152;
const EDGE = { left: 40, right: 10, top: 10, bottom: 30 } as const;

/** The versions of a task by what they give and what they cost; those in memory are filled and named. */
export function FrontierFigure(props: {
  readonly task: TaskOverview;
  readonly latest: TaskFrame | undefined;
  readonly colours: ReadonlyMap<number, () => string>;
}) {
  const { task, latest, colours } = props;
  const speedOf = ({ throughputRps, macs }: VersionOverview) =>
    throughputRps ?? (macs === undefined ? undefined : 1e9 / macs);
  const hasProfiles = task.versions.some(({ throughputRps }) => throughputRps !== undefined);
  const points = task.versions.flatMap((version) => {
    const speed = hasProfiles ? version.throughputRps : speedOf(version);
    const { accuracy } = version;
    return speed === undefined || accuracy === undefined ? [] : [{ ...version, speed, accuracy }];
  });
  const resident = new Set(Object.keys(latest?.resident ?? {}).map(Number));
  const label = hasProfiles ? 'Accuracy by throughput' : 'Accuracy by speed (1 / MACs)';
  if (points.length === 0) {
    return (
      <figure class="chart frontier">
        <figcaption>
          <span class="chart-title">Frontier</span>
        </figcaption>
        <p class="empty">Accuracies of its versions are not known.</p>
      </figure>
    );
  }
  const speeds = points.map(({ speed }) => speed);
  const accuracies = points.map(({ accuracy }) => accuracy);
  const [slowest, fastest] = [Math.min(...speeds) / 1.25, Math.max(...speeds) * 1.25];
  const spread = Math.max(0.001, Math.max(...accuracies) - Math.min(...accuracies));
  const [lowest, highest] = [
    Math.min(...accuracies) - 0.08 * spread,
    Math.max(...accuracies) + 0.08 * spread,
  ];
  const x = (speed: number) =>
    EDGE.left + (Math.log(speed / slowest) / Math.log(fastest / slowest)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (accuracy: number) =>
    HEIGHT - EDGE.bottom - ((accuracy - lowest) / (highest - lowest)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const frontier = points.filter(({ isOnFrontier }) => isOnFrontier).sort((a, b) => a.speed - b.speed);
  const shown = points.toSorted((a, b) => Number(resident.has(a.version)) - Number(resident.has(b.version)));
  const ticks = logTicks(slowest, fastest);
  const labels = placed(
    shown
      .filter(({ version }) => resident.has(version))
      .map(({ version, speed, accuracy }) => ({ version, x: x(speed), y: y(accuracy) })),
  );
  const accuracyTicks = [0, 1, 2, 3].map((i) => Math.min(...accuracies) + (i / 3) * spread);
  const described = `${task.task}, ${label.toLowerCase()}: ${points.length} versions, ${frontier.length} on the frontier; in memory ${[...resident].map((version) => `version ${version}`).join(', ') || 'none'}`;
  return (
    <figure class="chart frontier">
      <figcaption>
        <span class="chart-title">Frontier</span>
        <span class="legend">
          <span>
            <i class="dot" style={{ color: 'var(--accent)' }} /> in memory
          </span>
        </span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={described}>
        {accuracyTicks.map((tick) => (
          <g key={tick}>
            <line x1={EDGE.left} x2={WIDTH - EDGE.right} y1={y(tick)} y2={y(tick)} stroke="var(--grid)" />
            <text x={EDGE.left - 5} y={y(tick) + 3} text-anchor="end">
              {percent(tick, spread < 0.02 ? 2 : 1)}
            </text>
          </g>
        ))}
        {ticks.map((tick) => (
          <g key={tick}>
            <line x1={x(tick)} x2={x(tick)} y1={EDGE.top} y2={HEIGHT - EDGE.bottom} stroke="var(--grid)" />
            <text x={x(tick)} y={HEIGHT - EDGE.bottom + 13} text-anchor="middle">
              {compact(tick)}
            </text>
          </g>
        ))}
        <text x={WIDTH - EDGE.right} y={HEIGHT - 3} text-anchor="end">
          {hasProfiles ? '% by requests/s' : '1 / GMAC'}
        </text>
        <polyline
          points={frontier.map(({ speed, accuracy }) => `${x(speed)},${y(accuracy)}`).join(' ')}
          fill="none"
          stroke="var(--muted)"
          stroke-width="1"
        />
        {shown.map((point) => {
          const isResident = resident.has(point.version);
          const colour = colours.get(point.version)?.() ?? 'var(--muted)';
          return (
            <circle
              key={point.version}
              cx={x(point.speed)}
              cy={y(point.accuracy)}
              r={isResident ? 4.5 : 2.5}
              fill={isResident ? colour : 'var(--surface)'}
              stroke={isResident ? 'var(--surface)' : point.isOnFrontier ? 'var(--text)' : 'var(--muted)'}
              stroke-width={1}
            >
              <title>{`version ${point.version}: ${percent(point.accuracy, 2)}, ${compact(point.speed)}${hasProfiles ? '/s' : ''}`}</title>
            </circle>
          );
        })}
        {labels.map(({ version, x: left, y: bottom }) => (
          <text key={version} class="on" x={left} y={bottom}>
            v{version}
          </text>
        ))}
      </svg>
    </figure>
  );
}

interface Label {
  readonly version: number;
  readonly x: number;
  readonly y: number;
}

/** Size of a letter in the picture. */
const LETTER = { width: 6, height: 9 } as const;

/** Labels beside their dots where none covers another; those without such a place are left out. */
function placed(dots: readonly Label[]): Label[] {
  const labels: Label[] = [];
  for (const { version, x, y } of dots) {
    const width = LETTER.width * (1 + String(version).length);
    const places = [
      { x: x + 5, y: y - 4 },
      { x: x - 4 - width, y: y + 11 },
      { x: x + 4, y: y + 12 },
      { x: x - 4 - width, y: y - 4 },
    ];
    const isFree = (place: { readonly x: number; readonly y: number }) =>
      place.x > EDGE.left &&
      place.x + width < WIDTH &&
      labels.every(
        (other) => Math.abs(other.x - place.x) >= width + 2 || Math.abs(other.y - place.y) >= LETTER.height,
      );
    const place = places.find(isFree);
    if (place !== undefined) labels.push({ version, ...place });
  }
  return labels;
}
