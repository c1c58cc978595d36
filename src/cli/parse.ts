import { InvalidArgumentError } from '../base/errors.ts';

/** `400ms`, `0.4s`, `2h`, `90` (in the unit given) → ms. */
export function parseDurationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?$/.exec(text.trim());
  if (match === null || Number(match[1]) === 0) {
    throw new InvalidArgumentError(`Expected a duration above 0 such as 400ms, 0.4s or 2h, got "${text}".`);
  }
  return Number(match[1]) * MS_PER_UNIT[(match[2] ?? 'ms') as keyof typeof MS_PER_UNIT];
}

const MS_PER_UNIT = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 } as const;

/**
 * The address of a server, such as `http://edge-box:8000` → its origin.
 * @throws InvalidArgumentError also for one with a path, which requests and balancers would not go by
 */
export function parseServerUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !['http:', 'https:'].includes(url.protocol)) {
    throw new InvalidArgumentError(
      `"${text}" is no server address; expected one such as http://edge-box:8000.`,
    );
  }
  if (!isOriginOnly(url)) {
    throw new InvalidArgumentError(
      `"${text}" has more than host and port. The protocol's paths begin at the root of a server: expected an address such as ${url.origin}. A server behind a path needs a port or a name of its own.`,
    );
  }
  return url.origin;
}

/** The same of where metrics are: at `/metrics`, which may be said. @throws InvalidArgumentError */
export function parseMetricsUrl(text: string): string {
  return parseServerUrl(text.replace(/\/metrics\/?$/, ''));
}

/** Without path, query, fragment and user. */
export function isOriginOnly({ pathname, search, hash, username, password }: URL): boolean {
  return pathname === '/' && search === '' && hash === '' && username === '' && password === '';
}

/** `2GB`, `500MB`, `1.5GiB`, `4096` → bytes. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?$/.exec(text.trim());
  const bytes = match === null ? 0 : Number(match[1]) * bytesPer(match[2] ?? '');
  if (bytes >= 1) return Math.floor(bytes);
  throw new InvalidArgumentError(`Expected a size such as 500MB, 2GB or 1GiB, got "${text}".`);
}

/** `M`, `Mi` → bytes. */
function bytesPer(unit: string): number {
  const power = ['', 'k', 'M', 'G', 'T'].indexOf(unit.replace('i', ''));
  return (unit.endsWith('i') ? 1024 : 1000) ** power;
}

/** An integer within bounds. */
export function parseInteger(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`Expected an integer from ${min} to ${max}, got "${text}".`);
    }
    return value;
  };
}

export function parseNumber(min: number, max = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= min && value <= max)) {
      throw new InvalidArgumentError(`Expected a number from ${min} to ${max}, got "${text}".`);
    }
    return value;
  };
}

/**
 * A number of a range whose ends do not both belong to it.
 * @param expected what is asked for, as in "a share above 0 and below 1 such as 0.9"
 * @param why others make no sense, a sentence
 */
export function parseNumberWithin(
  isWithin: (value: number) => boolean,
  expected: string,
  why: string,
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !isWithin(value))
      throw new InvalidArgumentError(`Expected ${expected}, got "${text}". ${why}`);
    return value;
  };
}

/** `0,1` or `0-3` → CPU numbers, ascending, without repetition. */
export function parseCpus(text: string): number[] {
  const cpus = new Set<number>();
  for (const part of text.split(',')) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part.trim());
    if (match === null)
      throw new InvalidArgumentError(`Expected CPUs such as 0 or 0,2 or 0-3, got "${text}".`);
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first || last > 4095) throw new InvalidArgumentError(`"${part}" is not a range of CPUs.`);
    for (let cpu = first; cpu <= last; cpu++) cpus.add(cpu);
  }
  return [...cpus].sort((a, b) => a - b);
}

/** `0.25,0.5` → numbers in [min, max). */
export function parseShares(text: string): number[] {
  return text.split(',').map((part) => {
    const value = Number(part);
    if (part.trim() === '' || !(value > 0 && value < 1)) {
      throw new InvalidArgumentError(`Expected shares between 0 and 1 such as 0.25,0.5, got "${text}".`);
    }
    return value;
  });
}
