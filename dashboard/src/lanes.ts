import type uPlot from 'uplot';
import type { TaskOverview } from '../../src/serve/control/messages.ts';
import { palette, versionColour } from './palette.ts';
import { DOT_FIGURES, type Series, type TaskSeries } from './series.ts';

/** A version's place on the axis of accuracies, which has a lane for each, the most accurate on top. */
export interface Lane {
  readonly version: number;
  readonly accuracy: number | undefined;
  readonly colour: () => string;
}

/** Colours of a task's versions: by rank of accuracy among all of them, so that they never change. */
export function coloursOf({ versions }: TaskOverview): ReadonlyMap<number, () => string> {
  const ranked = versions.toSorted((a, b) => (b.accuracy ?? 0) - (a.accuracy ?? 0) || a.version - b.version);
  return new Map(ranked.map(({ version }, rank) => [version, () => versionColour(rank, ranked.length)]));
}

/** Lanes of the frontier, and of whatever was in memory in the time that is shown. */
export function lanesOf(
  task: TaskOverview,
  series: TaskSeries,
  colours: ReadonlyMap<number, () => string>,
): Lane[] {
  const seen = new Set(task.versions.filter(({ isOnFrontier }) => isOnFrontier).map((v) => v.version));
  for (const shares of series.shares) for (const version of shares?.keys() ?? []) seen.add(version);
  const accuracies = new Map(task.versions.map((v) => [v.version, v.accuracy]));
  return [...seen]
    .map((version) => ({
      version,
      accuracy: accuracies.get(version),
      colour: colours.get(version) ?? (() => palette().muted),
    }))
    .sort((a, b) => (b.accuracy ?? 0) - (a.accuracy ?? 0) || a.version - b.version);
}

/** Middle of a lane, from the bottom. */
export function laneMiddle(index: number, count: number): number {
  return count - index - 0.5;
}

/** Where an accuracy lies between the lanes. */
export function laneOf(accuracy: number | null, lanes: readonly Lane[]): number | null {
  if (accuracy === null || lanes.length === 0) return null;
  const known = lanes.flatMap((lane, index) =>
    lane.accuracy === undefined ? [] : [{ accuracy: lane.accuracy, y: laneMiddle(index, lanes.length) }],
  );
  const below = known.findIndex((lane) => lane.accuracy <= accuracy);
  if (below === 0) return known[0]!.y;
  if (below < 0) return known.at(-1)?.y ?? null;
  const [upper, lower] = [known[below - 1]!, known[below]!];
  const part = (accuracy - lower.accuracy) / (upper.accuracy - lower.accuracy || 1);
  return lower.y + part * (upper.y - lower.y);
}

/** A thin line where a version is in memory, a band as high as its share of the answers where it answers. */
export function paintLanes(
  u: uPlot,
  context: CanvasRenderingContext2D,
  series: Series,
  task: TaskSeries,
  lanes: readonly Lane[],
): void {
  const laneHeight = Math.abs(u.valToPos(1, 'y', true) - u.valToPos(0, 'y', true));
  const half = series.stepMs / 2000;
  const pixel = devicePixelRatio;
  lanes.forEach(({ version, colour }, index) => {
    const middle = u.valToPos(laneMiddle(index, lanes.length), 'y', true);
    context.fillStyle = colour();
    let run: { left: number; right: number; height: number } | undefined;
    const finish = () => {
      if (run === undefined) return;
      context.globalAlpha = run.height <= pixel ? 0.75 : 0.9;
      context.fillRect(run.left, Math.round(middle - run.height / 2), run.right - run.left, run.height);
      run = undefined;
    };
    for (let point = 0; point < series.x.length; point++) {
      const share = task.shares[point]?.get(version);
      if (share === undefined) continue;
      const x = series.x[point]!;
      const before = series.x[point - 1];
      const from = half > 0 ? x - half : before === undefined || x - before > 3.5 ? x - 1 : before;
      const left = Math.round(u.valToPos(from, 'x', true));
      const right = Math.max(left + 1, Math.round(u.valToPos(half > 0 ? x + half : x, 'x', true)));
      const height = share === 0 ? pixel : Math.max(3 * pixel, share * (laneHeight - 3 * pixel));
      const rounded = Math.max(1, Math.round(height));
      // Bands of one height are one: an hour has some hundred of them.
      if (run !== undefined && run.height === rounded && left <= run.right) run.right = right;
      else {
        finish();
        run = { left, right, height: rounded };
      }
    }
    finish();
  });
  context.globalAlpha = 1;
}

/** A dot for each answer that was chosen, by version; those beyond the objective of their time are larger. */
export function paintDots(
  u: uPlot,
  context: CanvasRenderingContext2D,
  dots: readonly number[],
  colours: ReadonlyMap<number, () => string>,
): void {
  const pixel = devicePixelRatio;
  const resolved = new Map([...colours].map(([version, colour]) => [version, colour()]));
  const { muted, refused } = palette();
  context.globalAlpha = 0.8;
  for (let i = 0; i < dots.length; i += DOT_FIGURES) {
    const isLate = dots[i + 3] === 1;
    const size = (isLate ? 3 : 2) * pixel;
    context.fillStyle = isLate ? refused : (resolved.get(dots[i + 2]!) ?? muted);
    const x = u.valToPos(dots[i]!, 'x', true);
    const y = u.valToPos(dots[i + 1]!, 'y', true);
    context.fillRect(x - size / 2, y - size / 2, size, size);
  }
  context.globalAlpha = 1;
}
