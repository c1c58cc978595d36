import type { Clock } from '../base/clock.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import type { Measurement, TaskManifest } from '../repository/types.ts';
import type { Scale } from './scale.ts';

/** What experiments measure with. The command line makes the real one; nothing else starts processes or knows this machine. */
export interface Lab {
  /** A repository with the tasks of the experiments, profiled on this machine. */
  readonly repository: string;
  /** Three tasks, for experiments that need several. */
  readonly tasks: readonly LabTask[];
  /** All families of the user's own repository, as they are. */
  readonly families: readonly TaskManifest[];
  readonly scale: Scale;
  readonly seed: number;
  /** Those of the server under test, and of who sends the requests. */
  readonly cpus: readonly number[];
  readonly clientCpus: readonly number[];
  /** How many the machine has. */
  readonly machineCpus: number;
  /** Whether processes are bound to their CPUs; without that, who asks disturbs who answers. */
  readonly isBound: boolean;
  /** A folder of recorded demand; undefined: made-up demand stands in. */
  readonly traces?: string;
  /** Whether there is an NGINX. */
  readonly hasNginx: boolean;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Tells what is being done now. */
  say(what: string): void;
  /** What a key stands for is measured once, and kept when the experiment is interrupted. The value has to be plain JSON. */
  part<T>(key: string, measure: () => Promise<T>): Promise<T>;
  /** Keeps a text beside the results, compressed where its name ends in `.gz`. */
  keep(file: string, text: string): Promise<void>;
  /** Starts a command of Bonsai in a process of its own. */
  start(options: LabCommand): Promise<LabProcess>;
  /** Single inferences by ONNX Runtime alone, ms. */
  latency(task: string, version: number, runs: number): Promise<Measurement>;
}

/** A task as it is asked for in experiments. */
export interface LabTask {
  readonly name: string;
  /** The task of the user's repository whose family it has: another one's name where there are fewer than three. */
  readonly source: string;
  readonly manifest: TaskManifest;
  readonly inputs: LabelledInputs;
  /** Whether the labels mean something, so that answers are scored. */
  readonly isLabelled: boolean;
}

export interface LabCommand {
  readonly args: readonly string[];
  readonly boundTo?: readonly number[];
  /** Folder of a control group that it is to run in. */
  readonly controlGroup?: string;
  readonly cwd?: string;
  readonly isReady: (value: object) => boolean;
  /** Gets what it prints, line by line, as far as that is JSON. */
  readonly onOutput?: (value: object) => void;
  readonly onLog?: (line: string) => void;
  readonly name: string;
}

export interface LabProcess {
  readonly pid: number;
  /** The line that said that it is ready. */
  readonly ready: unknown;
  close(): Promise<void>;
}
