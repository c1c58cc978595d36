import { startCommandProcess } from './command-process.ts';

export interface ServerProcessOptions {
  readonly repository: string;
  /** Undefined: those that this process may use. */
  readonly cpus?: readonly number[];
  /** `largest`, `smallest`, a version number of every task, or TASK=VERSION. */
  readonly initial: string;
  /** The one task that is loaded; undefined: all. */
  readonly task?: string;
  readonly sloMs?: number;
}

/** A Bonsai server in a process of its own, as `bonsai serve` starts it: measured apart from who measures it. */
export interface ServerProcess {
  readonly httpUrl: string;
  readonly metricsUrl: string;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<void>;
  /** Drains and ends the server. */
  close(): Promise<void>;
}

/** The line that `bonsai serve --json` prints when it is ready. */
export interface ReadyLine {
  readonly ready: true;
  readonly http: string;
  /** HOST:PORT of the gRPC service, where it is offered. */
  readonly grpc?: string;
  readonly metrics: string;
  /** Of the live page, where it is offered. */
  readonly control?: string;
}

/** Starts `bonsai serve` on free ports and waits until it is ready. @throws BonsaiError `load_failed` with its complaint */
export async function startServerProcess(options: ServerProcessOptions): Promise<ServerProcess> {
  const { exited, ready, close } = await startCommandProcess({
    name: 'The server',
    args: [
      'serve',
      '--exit-with-parent',
      options.repository,
      '--json',
      '--port',
      '0',
      '--grpc-port',
      'off',
      '--metrics-port',
      '0',
      '--control-port',
      'off',
      ...(options.cpus === undefined ? [] : ['--cpus', options.cpus.join(',')]),
      ...(options.task === undefined
        ? []
        : ['--model-control-mode', 'explicit', '--load-model', options.task]),
      '--initial',
      options.initial,
      ...(options.sloMs === undefined ? [] : ['--slo', `${options.sloMs}ms`]),
    ],
    isReady: (value) => 'ready' in value,
  });
  const { http, metrics } = ready as ReadyLine; // Written by our own serve command.
  return { httpUrl: http, metricsUrl: metrics, exited, close };
}
