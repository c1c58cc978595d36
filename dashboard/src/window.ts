/** What stretch of time is shown. */
export interface TimeWindow {
  readonly spanMs: number;
  /** Undefined: it follows what comes. */
  readonly endMs: number | undefined;
}

export const RANGES = [
  { label: '1 min', spanMs: 60_000 },
  { label: '5 min', spanMs: 300_000 },
  { label: '15 min', spanMs: 900_000 },
  { label: '1 h', spanMs: 3_600_000 },
] as const;

export const DEFAULT_SPAN_MS = 300_000;
const MIN_SPAN_MS = 10_000;
const MAX_SPAN_MS = 3_600_000;

/** Shorter or longer, around its middle; one that follows goes on following. */
export function zoomed(window: TimeWindow, factor: number, nowMs: number, aroundMs?: number): TimeWindow {
  const spanMs = Math.min(MAX_SPAN_MS, Math.max(MIN_SPAN_MS, window.spanMs * factor));
  if (window.endMs === undefined && aroundMs === undefined) return { spanMs, endMs: undefined };
  const endMs = window.endMs ?? nowMs;
  const middleMs = aroundMs ?? endMs - window.spanMs / 2;
  const share = (endMs - middleMs) / window.spanMs;
  return bounded({ spanMs, endMs: middleMs + share * spanMs }, nowMs);
}

/** Later, or earlier by a negative time; one that comes to the present follows it. */
export function shifted(window: TimeWindow, byMs: number, nowMs: number): TimeWindow {
  const { spanMs, endMs } = bounded({ spanMs: window.spanMs, endMs: (window.endMs ?? nowMs) + byMs }, nowMs);
  return { spanMs, endMs: endMs === nowMs ? undefined : endMs };
}

export function between(fromMs: number, toMs: number, nowMs: number): TimeWindow {
  return bounded({ spanMs: Math.max(MIN_SPAN_MS, toMs - fromMs), endMs: toMs }, nowMs);
}

/** Not beyond what there can be. */
function bounded(
  window: { readonly spanMs: number; readonly endMs: number },
  nowMs: number,
): { readonly spanMs: number; readonly endMs: number } {
  const earliestMs = nowMs - MAX_SPAN_MS + window.spanMs;
  return { spanMs: window.spanMs, endMs: Math.min(nowMs, Math.max(earliestMs, window.endMs)) };
}
