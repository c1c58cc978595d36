import type { Tensor } from '../base/tensor.ts';
import type { WorkerLostError } from './errors.ts';

export interface RunResult {
  /** In the order of the network's outputs. */
  readonly outputs: readonly Tensor[];
  readonly computeMs: number;
  /** CPU time of that; undefined where it is not measured. */
  readonly cpuMs?: number;
}

/** One network, ready to run for one slot of the server: in a thread of its own, or in the one that has the sockets. */
export interface Lane {
  /** It computes in the thread that has the sockets. */
  readonly isInline: boolean;
  /** An answer is there that nobody has taken yet. */
  readonly hasAnswer: boolean;
  /** It ended without having been closed, and runs nothing any more. */
  readonly isLost: boolean;
  /** Called once when that happens. */
  onLost: (error: WorkerLostError) => void;
  /**
   * Runs one inference.
   * @param parts of each request its inputs in the network's order; more than one are computed as one, joined along the
   *   first axis
   * @throws WorkerLostError if the lane is lost, BonsaiError `engine_failure` with ONNX Runtime's reason
   */
  run(parts: readonly (readonly Tensor[])[]): Promise<RunResult>;
  /** Finishes what it has and frees the network. */
  close(): Promise<void>;
  /** Ends it as a crash would; for drills and tests. */
  crash(): Promise<void>;
}

/** The inputs of several requests as those of one, joined along the first axis. */
export function joined(parts: readonly (readonly Tensor[])[]): readonly Tensor[] {
  const [first] = parts;
  if (parts.length === 1) return first!;
  return first!.map((tensor, i) => {
    const rows = parts.reduce((sum, part) => sum + part[i]!.shape[0]!, 0);
    const bytes = Buffer.concat(parts.map((part) => part[i]!.bytes));
    return { ...tensor, shape: [rows, ...tensor.shape.slice(1)], bytes };
  });
}
