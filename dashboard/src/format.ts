/** 12.3, 1234, 493k, 1.12M */
export function perSecond(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (value >= 999_500) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (value >= 99_950) return `${(value / 1e3).toFixed(0)}k`;
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

export function percent(value: number | null | undefined, digits = 1): string {
  return value === null || value === undefined ? '–' : `${(100 * value).toFixed(digits)} %`;
}

export function ms(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–';
  if (value >= 10_000) return `${(value / 1000).toFixed(1)} s`;
  return `${Number(value.toPrecision(value >= 100 ? 3 : 2))} ms`;
}

/** 1.6, 14 ms */
export function msPair(first: number | null | undefined, second: number | null | undefined): string {
  const [left, right] = [ms(first), ms(second)];
  return left.endsWith(' ms') && right.endsWith(' ms')
    ? `${left.slice(0, -3)}, ${right}`
    : `${left}, ${right}`;
}

// Made once: to make one takes longer than to use it a hundred times.
const MINUTES = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const SECONDS = new Intl.DateTimeFormat([], {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});

export function clock(epochMs: number): string {
  return SECONDS.format(epochMs);
}

export function hourAndMinute(epochMs: number): string {
  return MINUTES.format(epochMs);
}

/** 3 d 4 h, 2 h 5 min, 3 min 7 s */
export function duration(durationMs: number): string {
  const seconds = Math.max(0, Math.round(durationMs / 1000));
  const [d, h, m, s] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
    seconds % 60,
  ];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  return m > 0 ? `${m} min ${s} s` : `${s} s`;
}

export function bytes(value: number | undefined): string {
  if (value === undefined) return '–';
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`;
}

export function count(value: number): string {
  return value.toLocaleString('en');
}
