import { InvalidArgumentError } from '../base/errors.ts';
import { profileOf, type Variant } from './types.ts';

/** What somebody asks of a variant: a bound on one of its figures. */
export interface Constraint {
  readonly metric: RequestMetric;
  /** Requests per second, ms, multiply-accumulates, parameters, or a share in [0, 1]. */
  readonly value: number;
}

export type RequestMetric = keyof typeof METRICS;

interface Metric {
  /** Throughput and accuracy should be at least the bound, costs at most. */
  readonly isFloor: boolean;
  readonly units: Readonly<Record<string, number>>;
  readonly of: (variant: Variant, fingerprint: string | undefined) => number | undefined;
  readonly format: (value: number) => string;
}

const COUNTS = { '': 1, k: 1e3, m: 1e6, g: 1e9 } as const;

const METRICS = {
  throughput: {
    isFloor: true,
    units: { '': 1, '/s': 1 },
    of: (variant, fingerprint) => profileOf(variant, fingerprint)?.throughputRps.median,
    format: (value) => `${Number(value.toPrecision(4))}/s`,
  },
  latency: {
    isFloor: false,
    units: { ms: 1, us: 1e-3, µs: 1e-3, s: 1000 },
    of: (variant, fingerprint) => profileOf(variant, fingerprint)?.latencyMs.median,
    format: (value) => `${Number(value.toPrecision(4))}ms`,
  },
  flops: {
    isFloor: false,
    units: COUNTS,
    of: ({ macs }) => macs,
    format: (value) => `${Number((value / 1e6).toPrecision(4))}M`,
  },
  params: {
    isFloor: false,
    units: COUNTS,
    of: ({ parameters }) => parameters,
    format: (value) => `${Number((value / 1e6).toPrecision(4))}M`,
  },
  accuracy: {
    isFloor: true,
    units: { '': 1, '%': 0.01 },
    of: ({ accuracy }) => accuracy.test,
    format: (value) => String(Number(value.toFixed(6))),
  },
} as const satisfies Record<string, Metric>;

/**
 * Reads constraints as people write them: `throughput>=40/s`, `latency<=20ms`, `flops<=5M` (multiply-accumulates, as in
 * the repository), `params<=0.3M`, `accuracy>=0.9`; several with commas.
 * @throws InvalidArgumentError naming what was read and what can be said
 */
export function parseConstraints(text: string): Constraint[] {
  return text.split(',').map((part) => {
    const [, metric, sign, number, unit] =
      /^\s*([a-z]+)\s*([<>]=?)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-zµ/%]*)\s*$/i.exec(part) ?? [];
    const refuse = (why: string): never => {
      throw new InvalidArgumentError(
        `"${part}" cannot be asked for: ${why} Ask for throughput>=40/s, latency<=20ms, flops<=5M, params<=0.3M or accuracy>=0.9.`,
      );
    };
    if (metric === undefined || !Object.hasOwn(METRICS, metric))
      return refuse('it is no bound on a figure that variants have.');
    const name = metric as RequestMetric; // Just looked up.
    const { isFloor, units } = METRICS[name] as Metric;
    if (sign!.startsWith('>') !== isFloor)
      return refuse(`${name} is bounded from ${isFloor ? 'below (>=)' : 'above (<=)'}.`);
    const factor = units[unit!] ?? units[unit!.toLowerCase()];
    if (factor === undefined) return refuse(`"${unit}" is no unit of ${name}.`);
    const value = Number(number) * factor;
    if (!(value > 0 && Number.isFinite(value)) || (name === 'accuracy' && value > 1))
      return refuse(name === 'accuracy' ? 'a share lies in (0, 1].' : 'the bound should be positive.');
    return { metric: name, value };
  });
}

/** The constraint as `parseConstraints` reads it. */
export function formatConstraint({ metric, value }: Constraint): string {
  const { isFloor, format } = METRICS[metric];
  return `${metric}${isFloor ? '>=' : '<='}${format(value)}`;
}

/** A variant's figure in words, or that it is not known. */
export function formatFigure(variant: Variant, metric: RequestMetric, fingerprint?: string): string {
  const value = METRICS[metric].of(variant, fingerprint);
  return value === undefined ? `${metric} unknown` : `${metric} ${METRICS[metric].format(value)}`;
}

/** How a variant stands to a constraint: 1 meets it exactly, more is better, 0: not known. */
export function fulfilment(variant: Variant, { metric, value }: Constraint, fingerprint?: string): number {
  const { isFloor, of } = METRICS[metric] as Metric;
  const has = of(variant, fingerprint);
  if (has === undefined) return 0;
  if (isFloor) return has / value;
  return has <= 0 ? Number.POSITIVE_INFINITY : value / has;
}

export interface Choice {
  readonly variant: Variant;
  /** Whether it meets all constraints; if not, it is the one that misses them by least. */
  readonly fits: boolean;
}

/**
 * The variant that answers a request: of those that meet all constraints the most accurate, and of equally accurate ones
 * the one with the most throughput; where nothing but accuracy is asked for, the cheapest that has it. If none does, the one
 * whose worst fulfilment is the best.
 * @returns undefined for an empty family
 */
export function chooseVariant(
  variants: readonly Variant[],
  constraints: readonly Constraint[],
  fingerprint?: string,
): Choice | undefined {
  const worst = (variant: Variant) =>
    Math.min(...constraints.map((constraint) => fulfilment(variant, constraint, fingerprint)));
  const cost = (variant: Variant) => {
    const rps = profileOf(variant, fingerprint)?.throughputRps.median;
    return rps === undefined ? [1, variant.macs] : [0, 1 / rps];
  };
  const byCost = (a: Variant, b: Variant) => {
    const [[rankA, costA], [rankB, costB]] = [cost(a), cost(b)];
    return rankA! - rankB! || costA! - costB!;
  };
  const byAccuracy = (a: Variant, b: Variant) => b.accuracy.test - a.accuracy.test || byCost(a, b);
  const wantsAccuracyOnly = constraints.every(({ metric }) => metric === 'accuracy');
  const fitting = variants.filter((variant) => worst(variant) >= 1);
  const best = fitting.toSorted(wantsAccuracyOnly ? byCost : byAccuracy)[0];
  if (best !== undefined) return { variant: best, fits: true };
  const nearest = variants.toSorted((a, b) => worst(b) - worst(a) || byAccuracy(a, b))[0];
  return nearest && { variant: nearest, fits: false };
}

/** A bound counts as met closely up to this factor: widths come in blocks, and measurements vary. */
export const CLOSE_ENOUGH = 1.1;

/** What has to be made for a closer answer, or why nothing can. */
export type Closer =
  | { readonly kind: 'none'; readonly reason: string }
  | {
      readonly kind: 'goal';
      /** As `bonsai prune --goal` takes it. */
      readonly goal: string;
      /** What to prune. */
      readonly parent: Variant;
      /** The variant on the other side of what is wanted, where there is one. */
      readonly below?: Variant;
    };

/**
 * What lies between the variant that answers a request and the next one that does not: the goal that a variant in between
 * would have to meet, and the variant to prune for it. Networks in 8-bit integers are no parents: they cannot be trained.
 */
export function closerThan(
  choice: Choice,
  variants: readonly Variant[],
  constraints: readonly Constraint[],
  fingerprint?: string,
): Closer {
  const none = (reason: string): Closer => ({ kind: 'none', reason });
  const { variant: chosen, fits } = choice;
  const costs = constraints.filter(({ metric }) => metric !== 'accuracy');
  const floors = constraints.filter(({ metric }) => metric === 'accuracy');
  const isAccurate = (variant: Variant) => floors.every((each) => fulfilment(variant, each) >= 1);
  // Pruning makes nothing more accurate: what is below the asked accuracy itself leads to nothing that has it.
  const parents = variants.filter(
    (variant) => variant.lineage.quantization === undefined && isAccurate(variant),
  );
  if (!variants.some(isAccurate))
    return none('pruning makes no variant more accurate than the family is: train a better base');
  if (costs.length === 0) return cheaperThan(parents, variants);

  const worstOf = (variant: Variant) =>
    costs.reduce((a, b) =>
      fulfilment(variant, b, fingerprint) < fulfilment(variant, a, fingerprint) ? b : a,
    );
  const meets = (variant: Variant) => fulfilment(variant, worstOf(variant), fingerprint);
  if (fits && meets(chosen) <= CLOSE_ENOUGH) return none('it meets the request closely');
  // Of those that cost too much, the cheapest: the least has to go.
  const above = parents
    .filter((variant) => meets(variant) > 0 && meets(variant) < 1)
    .filter((variant) => !fits || variant.accuracy.test > chosen.accuracy.test)
    .toSorted((a, b) => meets(b) - meets(a) || b.accuracy.test - a.accuracy.test)[0];
  if (above === undefined)
    return none('no variant of the family that could be pruned to it is more accurate');
  const { metric, value } = worstOf(above);
  const goal =
    metric === 'throughput' || metric === 'latency'
      ? `${metric}=${METRICS[metric].format(value)}`
      : `${metric}=${shareOf(value, metric === 'flops' ? above.macs : above.parameters)}`;
  return { kind: 'goal', goal, parent: above, ...(fits && { below: chosen }) };
}

/**
 * Where only accuracy is asked for: something between the cheapest that has it and the next cheaper one.
 * @param parents floating-point variants that have it
 */
function cheaperThan(parents: readonly Variant[], variants: readonly Variant[]): Closer {
  const parent = parents.toSorted((a, b) => a.macs - b.macs)[0];
  if (parent === undefined) return { kind: 'none', reason: 'there is no floating-point variant to prune' };
  const below = variants.filter(({ macs }) => macs < parent.macs).toSorted((a, b) => b.macs - a.macs)[0];
  const wanted = below === undefined ? parent.macs * SMALLER : Math.sqrt(parent.macs * below.macs);
  if (wanted > parent.macs / CLOSE_ENOUGH)
    return { kind: 'none', reason: 'the next cheaper variant is close by' };
  return {
    kind: 'goal',
    goal: `flops=${shareOf(wanted, parent.macs)}`,
    parent,
    ...(below !== undefined && { below }),
  };
}

/** Where there is nothing smaller: about as much as one step of pruning repairs well. */
const SMALLER = 0.6;

function shareOf(wanted: number, whole: number): number {
  return Number(Math.max(1e-4, wanted / whole).toFixed(4));
}
