import { useState } from 'preact/hooks';
import type { TimeProps } from './task-row.tsx';
import { between, DEFAULT_SPAN_MS, RANGES, shifted, type TimeWindow, zoomed } from './window.ts';

/** The stretch of time that a page shows, and all the ways to change it. */
export function useTimeWindow(nowMs: number, themeKey: string) {
  const [window, setWindow] = useState<TimeWindow>({ spanMs: DEFAULT_SPAN_MS, endMs: undefined });
  const toMs = window.endMs ?? nowMs;
  const fromMs = toMs - window.spanMs;
  const time: TimeProps = {
    fromMs,
    toMs,
    themeKey,
    onSelect: (from, to) => setWindow(between(from, to, nowMs)),
    // Fingers move more often than the page is drawn: by what is set already, not by what is shown.
    onZoom: (factor, aroundMs) => setWindow((now) => zoomed(now, factor, nowMs, aroundMs)),
    onShift: (byMs) => setWindow((now) => shifted(now, byMs, nowMs)),
  };
  const follow = () => setWindow({ spanMs: DEFAULT_SPAN_MS, endMs: undefined });
  const pause = () => setWindow({ ...window, endMs: window.endMs === undefined ? nowMs : undefined });
  /** By a quarter of what is shown. */
  const move = (direction: 1 | -1) => setWindow(shifted(window, (direction * window.spanMs) / 4, nowMs));
  const zoom = (factor: number) => setWindow(zoomed(window, factor, nowMs));
  const setRange = (spanMs: number) => setWindow({ spanMs, endMs: window.endMs });
  const onKey = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ((event.target as Element).closest('button, select, input, a, dialog, .log-scroll') !== null) return;
    const range = RANGES[Number(event.key) - 1];
    if (event.key === ' ') pause();
    else if (event.key === 'ArrowLeft') move(-1);
    else if (event.key === 'ArrowRight') move(1);
    else if (event.key === '+' || event.key === '=') zoom(0.5);
    else if (event.key === '-') zoom(2);
    else if (event.key === 'Escape') follow();
    else if (range !== undefined) setRange(range.spanMs);
    else return;
    event.preventDefault();
  };
  return { window, fromMs, toMs, time, follow, pause, move, zoom, setRange, onKey };
}
