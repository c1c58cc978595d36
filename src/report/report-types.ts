/** What a report shows of one run. Times in ms from the run's start; ratios in [0, 1]. */
export interface RunReport {
  /** Short: it heads the figure and the table's row, e.g. "static 1". */
  readonly name: string;
  readonly durationMs: number;
  readonly requests: readonly RequestDot[];
  /** Which version served from when on, ascending; the last one serves until the end. */
  readonly versions: readonly VersionChange[];
  /** Changes of demand, ascending. */
  readonly demand: readonly { readonly atMs: number; readonly rps: number }[];
  /** Demand that moves all the time, drawn as a line with a scale of its own in place of the marks. */
  readonly demandCurve?: readonly { readonly atMs: number; readonly rps: number }[];
  /** CPU use against the budget: 1 is all of it, and a machine may go above for a moment. Empty: its panel is left out. */
  readonly cpu: readonly { readonly atMs: number; readonly utilization: number }[];
  readonly summary: RunSummary;
}

export interface RequestDot {
  readonly dueMs: number;
  readonly latencyMs: number;
  readonly outcome: 'ok' | 'refused' | 'error' | 'timeout';
}

export interface VersionChange {
  readonly atMs: number;
  readonly version: string;
  /** Of the version, on the test set. */
  readonly accuracy: number;
}

export interface RunSummary {
  readonly offered: number;
  readonly lateRatio: number;
  readonly meanAccuracy: number;
  readonly effectiveAccuracy: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Mean over the run; NaN if it was not measured. */
  readonly cpuUtilization: number;
  readonly switches: number;
}

/** A variant in the plane of accuracy and throughput. */
export interface FrontierPoint {
  readonly label: string;
  readonly accuracy: number;
  readonly throughputRps: number;
  /** Lowest and highest of the repeated measurements, where there were some. */
  readonly throughputRangeRps?: readonly [number, number];
  /** Whether no other variant is at least as good in both. */
  readonly isOnFrontier: boolean;
}

export interface DecisionRow {
  readonly atMs: number;
  /** The run it belongs to. */
  readonly run: string;
  readonly action: string;
  readonly reason: string;
}

export interface ReportInput {
  readonly title: string;
  readonly subtitle: string;
  /** Name and value, e.g. ["CPU", "2 × …"]. */
  readonly machine: readonly (readonly [string, string])[];
  readonly seed: number;
  readonly sloMs: number;
  readonly runs: readonly RunReport[];
  readonly frontier: readonly FrontierPoint[];
  readonly decisions: readonly DecisionRow[];
}
