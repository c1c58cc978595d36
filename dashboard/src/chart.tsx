import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { showCursorTime } from './cursor-time.tsx';
import { drawNever, drawSoon } from './draw-queue.ts';
import { clock, hourAndMinute } from './format.ts';
import { palette } from './palette.ts';
import { followTouch } from './touch.ts';

export interface ChartLine {
  readonly label: string;
  readonly colour: () => string;
  readonly width?: number;
  readonly isFilled?: boolean;
  readonly isBar?: boolean;
  readonly isDashed?: boolean;
}

export interface ChartProps {
  readonly title: string;
  /** What a person who cannot see it should know of it now. */
  readonly summary: string;
  readonly height: number;
  /** x in seconds, then the values of each line. */
  readonly data: readonly (readonly (number | null)[])[];
  readonly lines: readonly ChartLine[];
  readonly fromMs: number;
  readonly toMs: number;
  readonly range: (min: number, max: number) => [number, number];
  readonly isLogarithmic?: boolean;
  readonly ticks?: (value: number) => string;
  /** Where ticks are; by default as it falls. */
  readonly splits?: (min: number, max: number) => number[];
  /** Drawn over the lines, in pixels of the screen. */
  readonly paint?: (u: uPlot, context: CanvasRenderingContext2D) => void;
  /** Drawn below the lines. */
  readonly paintBelow?: (u: uPlot, context: CanvasRenderingContext2D) => void;
  /** The values at a point of time, as text; undefined: the latest. */
  readonly readout: (index: number | undefined) => string;
  /** Swatches that explain it. */
  readonly legend?: preact.ComponentChildren;
  readonly onSelect: (fromMs: number, toMs: number) => void;
  readonly onZoom: (factor: number, aroundMs: number) => void;
  /** To a later time, or an earlier one. */
  readonly onShift: (byMs: number) => void;
  readonly themeKey: string;
}

/** All charts have their cursor at the same time. */
const CURSOR_GROUP = 'time';

const FONT = '11px system-ui, sans-serif';
const Y_AXIS_PX = 54;
const PADDING_RIGHT_PX = 8;

/** A picture over time that is drawn anew when its data are. */
export function Chart(props: ChartProps) {
  const holder = useRef<HTMLDivElement>(null);
  const values = useRef<HTMLSpanElement>(null);
  const plot = useRef<uPlot>(undefined);
  const latest = useRef(props);
  latest.current = props;

  const showReadout = () => {
    const index = plot.current?.cursor.idx ?? undefined;
    const isInside = (plot.current?.cursor.left ?? -1) >= 0;
    if (values.current !== null)
      values.current.textContent = latest.current.readout(isInside ? index : undefined);
    showCursorTime(isInside && index !== undefined ? latest.current.data[0]?.[index] : undefined);
  };

  useEffect(() => {
    const element = holder.current!;
    const u = new uPlot(
      optionsOf(latest, element.clientWidth, showReadout),
      props.data as uPlot.AlignedData,
      element,
    );
    plot.current = u;
    const observer = new ResizeObserver(() => {
      if (element.clientWidth > 0) u.setSize({ width: element.clientWidth, height: latest.current.height });
    });
    observer.observe(element);
    const timeAt = (clientX: number) => 1000 * u.posToVal(clientX - u.over.getBoundingClientRect().left, 'x');
    const onWheel = (event: WheelEvent) => {
      // Plain scrolling stays scrolling; a pinch on a touch pad comes with ctrlKey set.
      if (!event.ctrlKey) return;
      event.preventDefault();
      latest.current.onZoom(event.deltaY > 0 ? 1.25 : 0.8, timeAt(event.clientX));
    };
    element.addEventListener('wheel', onWheel, { passive: false });
    const endTouch = followTouch(element, {
      onDrag: (px) => {
        const { fromMs, toMs, onShift } = latest.current;
        onShift((-px * (toMs - fromMs)) / u.over.clientWidth);
      },
      onPinch: (ratio, clientX) => latest.current.onZoom(1 / ratio, timeAt(clientX)),
    });
    return () => {
      endTouch();
      element.removeEventListener('wheel', onWheel);
      observer.disconnect();
      drawNever(latest);
      u.destroy();
      plot.current = undefined;
    };
  }, []);

  useEffect(() => {
    drawSoon(latest, () => {
      const u = plot.current;
      if (u === undefined) return;
      const { data, fromMs, toMs } = latest.current;
      u.batch(() => {
        u.setData(data as uPlot.AlignedData, false);
        u.setScale('x', { min: fromMs / 1000, max: toMs / 1000 });
      });
      showReadout();
    });
  }, [props.data, props.fromMs, props.toMs, props.themeKey]);

  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{props.title}</span>
        <span class="legend">{props.legend}</span>
        <span class="readout" ref={values} aria-hidden="true" />
      </figcaption>
      <div ref={holder} class="canvas" role="img" aria-label={`${props.title}: ${props.summary}`} />
    </figure>
  );
}

function optionsOf(
  latest: { readonly current: ChartProps },
  width: number,
  onCursor: () => void,
): uPlot.Options {
  const { lines, height, isLogarithmic = false } = latest.current;
  const axis = {
    stroke: () => palette().muted,
    font: FONT,
    grid: { stroke: () => palette().grid, width: 1 },
    ticks: { show: false },
  };
  return {
    width,
    height,
    padding: [6, PADDING_RIGHT_PX, 0, 0],
    legend: { show: false },
    cursor: {
      sync: { key: CURSOR_GROUP },
      drag: { x: true, y: false, setScale: false, dist: 4 },
      points: { show: false },
      x: true,
      y: false,
    },
    scales: {
      x: { time: true, auto: false },
      y: {
        distr: isLogarithmic ? 3 : 1,
        range: (_u, min, max) => latest.current.range(min, max),
      },
    },
    axes: [
      {
        ...axis,
        size: 18,
        gap: 2,
        incrs: (_u, _axis, min, max) => (max - min < FINE_SECONDS ? FINE_TICKS : COARSE_TICKS),
        space: (_u, _axis, min, max) => (max - min < FINE_SECONDS ? 66 : 42),
        values: timeTicks,
      },
      {
        ...axis,
        size: Y_AXIS_PX,
        gap: 4,
        space: 24,
        ...(latest.current.splits !== undefined && {
          splits: (_u: uPlot, _i: number, min: number, max: number) => latest.current.splits!(min, max),
          // A logarithmic axis would leave some of them out.
          filter: (_u: uPlot, splits: number[]) => splits,
        }),
        values: (_u, splits) =>
          splits.map((value) =>
            latest.current.ticks === undefined ? compact(value) : latest.current.ticks(value),
          ),
      },
    ],
    series: [
      {},
      ...lines.map(
        (line): uPlot.Series => ({
          label: line.label,
          stroke: () => line.colour(),
          width: line.isBar ? 0 : (line.width ?? 1.5),
          ...(line.isDashed && { dash: [4, 4] }),
          ...(line.isFilled && { fill: () => faint(line.colour()) }),
          ...(line.isBar && {
            fill: () => line.colour(),
            paths: uPlot.paths.bars!({ size: [1, 12, 1.5], gap: 0 }),
          }),
          points: { show: false },
          spanGaps: false,
        }),
      ),
    ],
    hooks: {
      drawAxes: [(u) => clipped(u, latest.current.paintBelow)],
      draw: [(u) => clipped(u, latest.current.paint)],
      setCursor: [onCursor],
      setSelect: [
        (u) => {
          const { left, width: selected } = u.select;
          if (selected < 4) return;
          latest.current.onSelect(1000 * u.posToVal(left, 'x'), 1000 * u.posToVal(left + selected, 'x'));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
    },
  };
}

/** Paints inside the picture only. */
function clipped(u: uPlot, paint: ChartProps['paint']): void {
  if (paint === undefined) return;
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left, top, width, height);
  u.ctx.clip();
  paint(u, u.ctx);
  u.ctx.restore();
}

/** Where less time than this is shown, ticks tell seconds. */
const FINE_SECONDS = 150;
const FINE_TICKS = [1, 2, 5, 10, 15, 30, 60];
const COARSE_TICKS = [60, 120, 300, 600, 900, 1800, 3600];

/** Half a label: a tick closer to the right edge than this has none, because it would be cut off. */
const EDGE_PX = { seconds: 22, minutes: 14 } as const;

/** Seconds only where ticks are closer than a minute. */
function timeTicks(u: uPlot, splits: readonly number[]): (string | null)[] {
  const isFine = splits.length > 1 && splits[1]! - splits[0]! < 60;
  const rightPx = u.bbox.width / devicePixelRatio - (isFine ? EDGE_PX.seconds : EDGE_PX.minutes);
  return splits.map((seconds) => {
    if (u.valToPos(seconds, 'x') > rightPx + PADDING_RIGHT_PX) return null;
    return isFine ? clock(1000 * seconds) : hourAndMinute(1000 * seconds);
  });
}

/** Of a colour in six hexadecimal digits, as the style sheet has them. */
function faint(colour: string): string {
  return `${colour}28`;
}

/** 1234 → 1.2k */
export function compact(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toFixed(1))}M`;
  if (size >= 1e3) return `${Number((value / 1e3).toFixed(1))}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return `${Number(value.toPrecision(2))}`;
}
