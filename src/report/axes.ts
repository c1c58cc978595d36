/** Maps values of a domain to pixels. Kept to what the figures need: two kinds of scale and their ticks. */
export interface Scale {
  readonly kind: 'linear' | 'log';
  readonly domain: readonly [number, number];
  readonly range: readonly [number, number];
  /** Pixels; values outside the domain lie outside the range. */
  at(value: number): number;
}

export function linearScale(domain: readonly [number, number], range: readonly [number, number]): Scale {
  const width = domain[1] - domain[0] || 1;
  return {
    kind: 'linear',
    domain,
    range,
    at: (v) => range[0] + ((v - domain[0]) / width) * (range[1] - range[0]),
  };
}

/** Base 10; the domain must be above 0. */
export function logScale(domain: readonly [number, number], range: readonly [number, number]): Scale {
  const low = Math.log10(domain[0]);
  const width = Math.log10(domain[1]) - low || 1;
  return {
    kind: 'log',
    domain,
    range,
    at: (v) => range[0] + ((Math.log10(v) - low) / width) * (range[1] - range[0]),
  };
}

/**
 * Round values within the domain, about `count` of them. Linear: steps of 1, 2 or 5 × 10^k. Logarithmic: the
 * powers of ten, with 2 and 5 between them where there is room.
 */
export function ticksOf(scale: Scale, count: number): number[] {
  const [low, high] = scale.domain;
  if (scale.kind === 'linear') {
    const step = niceStep(high - low, count);
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => rounded((first + i) * step));
  }
  const decades = Math.log10(high / low);
  const multiples = decades * 3 <= count ? [1, 2, 5] : [1];
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const multiple of multiples) ticks.push(rounded(multiple * 10 ** power));
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

/** The smallest domain of round numbers that holds [low, high], for a linear scale. */
export function niceDomain(low: number, high: number, count: number): [number, number] {
  if (!(high > low)) return [low - 1, low + 1];
  const step = niceStep(high - low, count);
  return [rounded(Math.floor(low / step + 1e-9) * step), rounded(Math.ceil(high / step - 1e-9) * step)];
}

/** A number as short as an axis wants it: 1200 → 1,200; 0.25 → 0.25. */
export function tickLabel(value: number): string {
  return value.toLocaleString('en-US', { maximumSignificantDigits: 6 });
}

function niceStep(width: number, count: number): number {
  const rough = width / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const multiple = rough / power;
  return power * (multiple <= 1 ? 1 : multiple <= 2 ? 2 : multiple <= 5 ? 5 : 10);
}

/** Without the dust of binary fractions: 0.30000000000000004 → 0.3. */
function rounded(value: number): number {
  return Number(value.toPrecision(12));
}
